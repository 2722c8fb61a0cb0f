"""`slimline serve` without a server: what is started in which order, what is supervised, and how all of it ends."""

import os
import platform
import re
import signal
import socket
import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest
from filelock import FileLock
from prefect.states import Running
from starlette.applications import Starlette
from starlette.testclient import TestClient
from typer.testing import CliRunner, Result

from slimline.flows.cli import serve as cli
from slimline.flows.server import prefect_server, supervisor
from slimline.flows.server.discovery import MARK, ServerRecord, running_server
from slimline.flows.server.supervisor import ServeError, ServeOptions, Supervisor, serve
from slimline.storage.fs import start_time
from tests.command import environment, program_command
from tests.flows.fakes import Clock, FakeClient, StopEvent, make_run
from tests.system import PATIENCE_S

PROGRAMS = Path(__file__).parent / "programs"
OPTIONS = ServeOptions("127.0.0.1", 4200, ("local",))
WORKER = f"{platform.node()}-local"
TOKEN = "correct-horse"


class FakeChild:
    """A child process that does what the test says."""

    def __init__(self, name: str, command: Sequence[str], variables: Mapping[str, str], log: Path) -> None:
        self.name, self.command, self.variables, self.log = name, command, variables, log
        self.pid = 1000 + len(name)
        self.exit_status: int | None = None
        self.events: list[str] = []
        self.on_start: Callable[[FakeChild], object] = lambda child: None
        self.restarts: list[str] = []
        self.alive = True

    def start(self) -> None:
        self.events.append(f"start {self.name}")
        self.on_start(self)

    def is_alive(self) -> bool:
        return self.alive

    def restart_if_ended(self) -> str | None:
        return self.restarts.pop() if self.restarts else None

    def stop(self, within_s: float) -> None:
        self.events.append(f"stop {self.name}")

    def log_tail(self) -> str:
        return "the last line"


class Machine:
    """What a supervisor starts and talks to."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.clock, self.client = home, Clock(), FakeClient()
        self.stop = StopEvent(self.clock)
        self.events: list[str] = []
        self.children: dict[str, FakeChild] = {}
        self.is_healthy, self.token = False, TOKEN.encode()
        self.on_start: dict[str, Callable[[FakeChild], object]] = {"server": self._answer, WORKER: self._report}
        self.on_start["deployments"] = lambda child: self._end(child, 0)
        monkeypatch.setenv("SLIMLINE_HOME", str(home))
        monkeypatch.setattr(supervisor, "time", self.clock)
        monkeypatch.setattr(supervisor, "Child", self._make_child)
        monkeypatch.setattr(supervisor, "require_free_port", lambda host, port: self.events.append(f"check {port}"))
        monkeypatch.setattr(supervisor, "_kill", lambda marked, spare=None: self.events.append(f"kill all but {spare}"))
        monkeypatch.setattr(httpx, "get", self._get)
        monkeypatch.setattr("prefect.client.orchestration.get_client", lambda sync_client: self.client)

    def _make_child(self, name: str, *arguments: Any) -> FakeChild:
        child = self.children[name] = FakeChild(name, *arguments)
        child.events = self.events
        child.on_start = self.on_start.get(name, child.on_start)
        return child

    def _get(self, url: str, headers: Mapping[str, str], timeout: float) -> Any:
        if not self.is_healthy:
            raise httpx.ConnectError("connection refused")
        is_let_in = url.endswith("/health") or headers["Authorization"] == f"Basic {b64encode(self.token).decode()}"
        return SimpleNamespace(status_code=200 if is_let_in else 401)

    def _answer(self, child: FakeChild) -> None:
        self.clock.after(5, lambda: setattr(self, "is_healthy", True))

    def _report(self, child: FakeChild) -> None:
        self.clock.after(5, lambda: self.client.add_worker("local", WORKER, datetime.now(UTC)))

    def _end(self, child: FakeChild, status: int) -> None:
        child.alive, child.exit_status = False, status

    def end_at_start(self, name: str, status: int = 1) -> None:
        """A child that ends as soon as it is started."""
        self.on_start[name] = lambda child: self._end(child, status)

    def supervisor(self, options: ServeOptions = OPTIONS) -> Supervisor:
        return Supervisor(options, TOKEN, self.stop)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_everything_is_started_in_order_and_found_by_other_commands(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.supervisor().start()
    assert machine.events == ["check 4200", "start server", f"start {WORKER}", "start deployments"]
    assert list(machine.client.pools) == ["local", "laptop"]
    record = running_server()
    assert record and (record.url, record.pid) == ("http://127.0.0.1:4200", os.getpid())
    output = capsys.readouterr().out
    assert re.search("a new database(.*\n)+server: ready.*\npools: local, laptop\nworker .*\nready: ", output)
    assert f"log in: open http://127.0.0.1:4200/log-in-with#{TOKEN}\n" in output
    assert "slimline serve --host 0.0.0.0" in output
    assert record.token == TOKEN


def test_children_see_the_state_directory_the_server_and_the_mark(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIMLINE_STORE", "s3://bench/slimline")
    machine.supervisor(ServeOptions("0.0.0.0", 4300, ("local",), database="postgresql+asyncpg://here/it")).start()
    for child in machine.children.values():
        assert child.variables[MARK] == child.variables["SLIMLINE_HOME"] == str(machine.home)
        assert child.variables["SLIMLINE_STORE"] == "s3://bench/slimline"
        assert child.variables["PREFECT_API_URL"] == "http://127.0.0.1:4300/api"
        assert child.variables["PREFECT_SERVER_UI_API_URL"] == "/api"
        assert child.variables["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:4300"
        assert child.variables["PREFECT_API_AUTH_STRING"] == TOKEN
        assert child.variables["PREFECT_SERVER_API_AUTH_STRING"] == TOKEN
        assert child.variables["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == "postgresql+asyncpg://here/it"
        assert child.variables["PREFECT_LOGGING_EXTRA_LOGGERS"] == "slimline"
        assert "-P" in child.command and child.log.parent == machine.home / "logs"


def test_a_connected_one_starts_workers_only(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.is_healthy = True
    machine.supervisor(ServeOptions("127.0.0.1", 4200, ("local",), connect="http://desk:4200/api")).start()
    assert machine.events == [f"start {WORKER}"]
    assert machine.children[WORKER].variables["PREFECT_API_URL"] == "http://desk:4200/api"
    assert "ready: workers for http://desk:4200\n" in capsys.readouterr().out


def test_a_server_that_asks_for_another_token_is_not_connected_to(machine: Machine) -> None:
    machine.is_healthy, machine.token = True, b"another"
    with pytest.raises(ServeError, match="PREFECT_API_AUTH_STRING"):
        machine.supervisor(ServeOptions("127.0.0.1", 4200, ("local",), connect="http://desk:4200/api")).start()
    assert machine.events == [] and running_server() is None


def test_schedules_that_were_paused_are_so_after_deploying(machine: Machine) -> None:
    schedule = SimpleNamespace(id=1, slug="daily", active=False)
    machine.client.deployments.append(SimpleNamespace(id=2, name="nightly", schedules=[schedule]))

    def deploy(child: FakeChild) -> None:
        schedule.active = True
        machine._end(child, 0)

    machine.on_start["deployments"] = deploy
    machine.supervisor().start()
    assert not schedule.active


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("server", "server ended at its start(.*\n)+the last line"),
        (WORKER, f"{WORKER} ended at its start(.*\n)+the last line"),
        ("deployments", "deployment is refused(.*\n)+the last line"),
    ],
)
def test_a_child_that_ends_at_its_start_is_told_with_its_log(name: str, message: str, machine: Machine) -> None:
    machine.end_at_start(name)
    with pytest.raises(ServeError, match=message):
        machine.supervisor().start()


@pytest.mark.parametrize(
    ("name", "message"),
    [("server", "127.0.0.1:4200 does not answer within 300 s"), (WORKER, f"{WORKER} sends no heartbeat within 300 s")],
)
def test_what_does_not_get_ready_is_told(name: str, message: str, machine: Machine) -> None:
    machine.on_start[name] = lambda child: None
    with pytest.raises(ServeError, match=message):
        machine.supervisor().start()


@pytest.mark.parametrize("name", ["server", "deployments"])
def test_a_stop_while_it_starts_ends_the_start(name: str, machine: Machine) -> None:
    machine.on_start[name] = lambda child: machine.clock.after(1, machine.stop.set)
    machine.supervisor().start()
    assert machine.stop.is_set()


def test_what_ends_is_started_again_and_lost_runs_go_on(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    running = machine.supervisor()
    running.start()
    run = machine.client.add(make_run(Running(), worker=WORKER, run_count=1))
    machine.children["server"].restarts = ["server: killed by SIGKILL; starts again now"]
    machine.children[WORKER].restarts = [f"{WORKER}: ended with status 1; starts again now"]
    machine.clock.after(20, machine.stop.set)
    running.supervise()
    assert machine.client.state_names(run) == ["Scheduled"]
    output = capsys.readouterr().out
    assert "server: killed by SIGKILL" in output and f"{WORKER}: ended with status 1" in output
    assert output.count("'run' goes on") == 1


def test_a_server_that_does_not_answer_is_asked_again(machine: Machine) -> None:
    running = machine.supervisor()
    running.start()
    run = machine.client.add(make_run(Running(), worker=WORKER, run_count=1))
    machine.client.is_down = True
    machine.clock.after(30, lambda: setattr(machine.client, "is_down", False))
    machine.clock.after(60, machine.stop.set)
    running.supervise()
    assert machine.client.state_names(run) == ["Scheduled"]


def test_at_the_end_runs_are_put_back_before_the_server_ends(machine: Machine) -> None:
    running = machine.supervisor()
    running.start()
    run = machine.client.add(make_run(Running(), worker=WORKER))
    machine.events.clear()
    running.stop()
    server = machine.children["server"].pid
    assert machine.events == [f"kill all but {server}", "stop server", "kill all but None"]
    assert machine.client.state_names(run) == ["Scheduled"]
    assert running_server() is None


def test_a_supervisor_that_never_started_can_be_stopped(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("the terminal is gone")

    monkeypatch.setattr("builtins.print", fail)
    machine.supervisor().stop()
    assert machine.events == ["kill all but None"] * 2


def test_a_process_is_killed_and_the_server_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    sleepers = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
    ended = subprocess.Popen(["true"])
    gone = psutil.Process(ended.pid)
    ended.wait()
    processes = [*(psutil.Process(sleeper.pid) for sleeper in sleepers), gone]
    supervisor._kill(((process, {}) for process in processes), spare=sleepers[0].pid)
    assert [process.is_running() for process in processes] == [True, False, False]
    sleepers[0].kill()
    for sleeper in sleepers:
        sleeper.wait()


# ---------------------------------------------------------------------------------------------------- the whole command


@pytest.fixture
def no_signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test's own process keeps its handlers and its settings."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for name in ("PREFECT_API_URL", "PREFECT_CLIENT_MAX_RETRIES", "PREFECT_API_AUTH_STRING"):
        monkeypatch.setenv(name, "")
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("no_signals")
def test_a_failed_start_is_cleaned_up(machine: Machine) -> None:
    machine.end_at_start("server")
    with pytest.raises(ServeError, match="server ended"):
        serve(OPTIONS)
    assert machine.events[0] == "kill all but None"  # what an earlier one has left
    assert machine.events[-2:] == ["stop server", "kill all but None"]


@pytest.mark.usefixtures("no_signals")
def test_a_second_one_is_told_where_the_first_is(machine: Machine) -> None:
    record = ServerRecord("http://127.0.0.1:4321", os.getpid(), start_time(os.getpid()) or 0, TOKEN)
    record.write()
    assert serve(OPTIONS) == record and machine.events == []


def start_program(home: Path, *options: str) -> subprocess.Popen[str]:
    command = program_command(PROGRAMS / "serve_until_signal.py", *options)
    return subprocess.Popen(command, env=environment(home), stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_signal_stops_it_also_where_sigint_was_ignored(number: signal.Signals, tmp_path: Path) -> None:
    process = start_program(tmp_path)
    assert process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(number)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert output == "stopped\nNone\n" and process.returncode == 0


def test_under_nohup_a_closed_terminal_does_not_stop_it(tmp_path: Path) -> None:
    process = start_program(tmp_path, "nohup")
    assert process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=PATIENCE_S)[0] == "stopped\nNone\n"


def test_sigint_stops_it_while_it_waits_for_another_that_starts(tmp_path: Path) -> None:
    with FileLock(tmp_path / "serve.lock"):
        process = start_program(tmp_path)
        while signal.SIGTERM not in caught_signals(process.pid):  # the second handler that it sets
            process.poll()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE_S)[0] == "None\n"


def caught_signals(pid: int) -> set[int]:
    """The signals that a process has a handler for."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    mask = int(line.split()[1], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def test_prefects_server_has_one_ui_a_login_page_and_no_answer_for_other_names(monkeypatch: pytest.MonkeyPatch) -> None:
    served: dict[str, Any] = {}
    monkeypatch.setattr(prefect_server, "create_app", lambda final: Starlette())
    monkeypatch.setattr(prefect_server.uvicorn, "run", lambda app, **settings: served.update(settings, app=app))
    monkeypatch.setattr(prefect_server.prefect, "__ui_v2_static_path__", prefect_server.prefect.__ui_v2_static_path__)
    prefect_server.serve("127.0.0.1", 4300)
    assert (served["host"], served["port"]) == ("127.0.0.1", 4300)
    assert not prefect_server.prefect.__ui_v2_static_path__.exists()
    client = TestClient(served["app"], base_url="http://localhost")
    assert "prefect-password" in client.get("/log-in-with").text
    assert client.get("/log-in-with", headers={"host": "evil.example"}).status_code == 403


def run_serve(*options: str, home: Path) -> Result:
    """The command in this process."""
    return CliRunner().invoke(cli.app, options, env={"SLIMLINE_HOME": str(home)})


@pytest.mark.usefixtures("no_signals")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "70000"], "--port: 70000 .*1 to 65535"),
        (["--database", "mysql://there/it"], "--database: 'mysql' .*postgresql.asyncpg://"),
        (["--connect", "desk:4200"], "--connect: 'desk:4200' .*http://desk:4200/api"),
        (["--host", "no.such.host.invalid"], "--host: 'no.such.host.invalid'"),
    ],
)
def test_bad_input_is_one_message_and_status_2(options: list[str], message: str, tmp_path: Path) -> None:
    finished = run_serve(*options, home=tmp_path)
    assert finished.exit_code == 2
    assert re.search(message, finished.stderr) and "Traceback" not in finished.stderr


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    finished = run_serve("--database", "postgres://me:secret@there/it", home=tmp_path)
    assert finished.exit_code == 2 and "secret" not in finished.output


@pytest.mark.usefixtures("no_signals")
def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finished = run_serve("--port", str(port), home=tmp_path)
    assert finished.exit_code == 2
    assert re.search(rf"--host, --port: 127.0.0.1:{port} .*allowed", finished.stderr)
    assert not (tmp_path / "serve.json").exists()


def test_urls_are_those_that_this_machine_reaches() -> None:
    assert ServeOptions("127.0.0.1", 4200, ()).url == "http://127.0.0.1:4200"
    assert ServeOptions("0.0.0.0", 4200, ()).url == "http://127.0.0.1:4200"
    assert ServeOptions("::1", 4200, ()).url == "http://[::1]:4200"
    assert ServeOptions("0.0.0.0", 4200, ()).public_url == f"http://{platform.node()}:4200"
    assert ServeOptions("192.0.2.1", 4200, ()).public_url == "http://192.0.2.1:4200"
    assert ServeOptions("::", 4200, ()).url == "http://[::1]:4200"
    assert ServeOptions("127.example.com", 4200, ()).public_url == "http://127.example.com:4200"
    assert {ServeOptions(host, 4200, ()).public_url for host in ("127.0.0.1", "localhost", "::1")} == {None}
    assert ServeOptions("127.0.0.1", 4200, (), connect="http://desk:4200/api/").url == "http://desk:4200"
