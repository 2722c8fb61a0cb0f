"""The parts of `slimline serve` that need no server: bad input, a child that dies, what is told to other commands."""

import os
import platform
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from slimline.flows.server.child_process import Child
from slimline.flows.server.discovery import MARK, Served, marked, served, withdraw
from slimline.flows.server.supervisor import Serving
from tests.command import ROOT, environment, run_command


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIMLINE_HOME", str(tmp_path))
    return tmp_path


def child(tmp_path: Path, code: str) -> Child:
    return Child("child", [sys.executable, "-c", code], os.environ, tmp_path / "logs" / "child.log")


def ended(process: Child) -> None:
    while process.is_alive():
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--port", "70000"], "--port: 70000 .*1 to 65535"),
        (["--database", "mysql://there/it"], "--database: 'mysql' .*postgresql.asyncpg://"),
        (["--connect", "desk:4200"], "--connect: 'desk:4200' .*http://desk:4200/api"),
        (["--host", "no.such.host.invalid"], "--host: 'no.such.host.invalid'"),
    ],
)
def test_bad_input_is_one_message_and_status_2(options: list[str], told: str, tmp_path: Path) -> None:
    finished = run_command("serve", *options, home=tmp_path, check=False)
    assert finished.returncode == 2
    assert re.search(told, finished.stderr) and "Traceback" not in finished.stderr


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    finished = run_command("serve", "--database", "postgres://me:secret@there/it", home=tmp_path, check=False)
    assert finished.returncode == 2 and "secret" not in finished.stdout + finished.stderr


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        finished = run_command("serve", "--port", str(port), home=tmp_path, check=False)
    assert finished.returncode == 2
    assert re.search(rf"--host, --port: 127.0.0.1:{port} .*allowed", finished.stderr)
    assert not (tmp_path / "serve.json").exists()


def test_urls_are_those_that_this_machine_reaches() -> None:
    assert Serving("127.0.0.1", 4200, ()).url == "http://127.0.0.1:4200"
    assert Serving("0.0.0.0", 4200, ()).url == "http://127.0.0.1:4200"
    assert Serving("::1", 4200, ()).url == "http://[::1]:4200"
    assert Serving("0.0.0.0", 4200, ()).public_url == f"http://{platform.node()}:4200"
    assert Serving("192.0.2.1", 4200, ()).public_url == "http://192.0.2.1:4200"
    assert {Serving(host, 4200, ()).public_url for host in ("127.0.0.1", "localhost", "::1")} == {None}
    assert Serving("127.0.0.1", 4200, (), connect="http://desk:4200/api/").url == "http://desk:4200"


def test_what_is_served_is_known_while_its_process_lives(home: Path) -> None:
    assert served() is None
    me = psutil.Process()
    Served("http://127.0.0.1:4200", me.pid, me.create_time()).publish()
    assert served() == Served("http://127.0.0.1:4200", me.pid, me.create_time())
    Served("http://127.0.0.1:4200", me.pid, me.create_time() - 1).publish()  # another process had that id
    assert served() is None
    (home / "serve.json").write_text("{")
    assert served() is None
    withdraw()
    assert not (home / "serve.json").exists()


def test_commands_on_the_home_prefer_its_server_unless_told_otherwise(home: Path) -> None:
    me = psutil.Process()
    Served("http://127.0.0.1:4321", me.pid, me.create_time()).publish()
    show = [sys.executable, "-c", "import slimline.flows, os; print(os.environ.get('PREFECT_API_URL'))"]
    for told, expected in (
        ({}, "http://127.0.0.1:4321/api"),
        ({"PREFECT_API_URL": "http://desk/api"}, "http://desk/api"),
    ):
        seen = environment(home) | told
        assert subprocess.check_output(show, cwd=ROOT, env=seen, text=True).strip() == expected


def test_what_bears_the_mark_is_found_through_any_number_of_parents(tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    parent = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, MARK: str(tmp_path)}, stdin=subprocess.PIPE
    )
    while len(list(marked(tmp_path))) < 2:
        time.sleep(0.01)
    assert not list(marked(tmp_path / "other"))
    parent.kill()
    parent.communicate()
    (orphan,) = (process for process, _ in marked(tmp_path))  # its input is the test's pipe, now closed
    orphan.kill()
    psutil.wait_procs([orphan], timeout=10)


def test_a_child_that_ends_is_started_again_each_time_later(tmp_path: Path) -> None:
    unlucky = child(tmp_path, "print('last words'); raise SystemExit(3)")
    unlucky.start()
    told = []
    while len(told) < 3:
        ended(unlucky)
        told += [sentence] if (sentence := unlucky.keep()) else []
    assert "ended with status 3; starts again now" in told[0]
    assert "starts again in 1 s" in told[1] and "starts again in 3 s" in told[2]
    assert unlucky.last_words().splitlines() == ["last words"] * 3


def test_a_killed_child_is_started_again_at_once_and_its_log_goes_on(tmp_path: Path) -> None:
    worker = child(tmp_path, "import time; time.sleep(600)")
    worker.start()
    assert worker.keep() is None and worker.pid is not None
    first = worker.pid
    os.kill(first, 9)
    ended(worker)
    assert "killed by SIGKILL; starts again now" in (worker.keep() or "")
    worker.keep()
    assert worker.is_alive() and worker.pid != first
    worker.end(within_s=10)
    assert not worker.is_alive()


def test_a_child_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    deaf = child(tmp_path, code)
    deaf.start()
    while "deaf" not in deaf.last_words():
        time.sleep(0.01)
    deaf.end(within_s=0.1)
    assert not deaf.is_alive()
