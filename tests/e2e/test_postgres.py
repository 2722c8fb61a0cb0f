"""`slimline serve` on Debian's PostgreSQL, and started again on the same database."""

import os
import platform
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.server import TINY, Server, free_port, run_server, turn_places
from tests.system import PATIENCE_S, require

pytestmark = [pytest.mark.e2e, pytest.mark.long]


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The URL of an empty database in a server of its own, which refuses to run as root."""
    require("pg_ctlcluster")
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    place = Path(tempfile.mkdtemp(prefix="slimline-postgres-"))
    becoming: list[str] = []
    if os.geteuid() == 0:
        becoming = ["runuser", "-u", "postgres", "--"]
        os.chown(place, pwd.getpwnam("postgres").pw_uid, -1)

    def run(program: str, *words: str) -> None:
        command = [*becoming, str(programs / program), "-D", str(place / "data"), *words]
        subprocess.run(command, cwd=place, check=True, stdout=subprocess.DEVNULL)

    port = free_port()
    run("initdb", "--auth", "trust", "--username", "slimline", "--no-sync")
    run("pg_ctl", "start", "--wait", "--log", str(place / "log"), "-o", f"-p {port} -h 127.0.0.1 -k {place}")
    try:
        yield f"postgresql+asyncpg://slimline@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "stop", "--mode", "immediate")
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def home(prepared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home, ours = tmp_path_factory.mktemp("postgres") / "home", shutil.ignore_patterns("prefect.db*")
    return shutil.copytree(prepared_home, home, ignore=ours)


@pytest.fixture(scope="module")
def interrupted(database: str, home: Path) -> str:
    """A run that was under way when Ctrl-C stopped everything; nightly's schedule was paused by then."""
    with run_server(home, "--database", database) as server:
        nightly = server.deployment("nightly/nightly")
        schedule = f"deployments/{nightly['id']}/schedules/{nightly['schedules'][0]['id']}"
        server.request("PATCH", schedule, {"active": False})
        run = server.trigger("benchmark/benchmark", **TINY)
        server.wait_for_turns(run, 1)
        server.stop()
    assert not (home / "prefect.db").exists()
    return run


@pytest.fixture(scope="module")
def again(database: str, home: Path, interrupted: str) -> Iterator[Server]:
    """The same, started again, and for other machines, too."""
    with run_server(home, "--database", database, "--host", "0.0.0.0") as server:
        yield server


def test_a_run_that_was_interrupted_goes_on(again: Server, interrupted: str) -> None:
    assert again.wait_for_end(interrupted)["type"] == "COMPLETED"
    assert turn_places(again.rows(interrupted)) == [(number, position) for number in (1, 2, 3) for position in (0, 1)]
    assert len(again.rows(interrupted, "runs")) == 1


def test_deployments_are_there_once_and_a_paused_schedule_stays_so(again: Server) -> None:
    names = [deployment["name"] for deployment in again.ask("deployments/filter", limit=50)]
    assert len(names) == len(set(names)) == 5
    (schedule,) = again.deployment("nightly/nightly")["schedules"]
    assert not schedule["active"]


def test_it_says_how_other_machines_reach_it(again: Server) -> None:
    command = f"slimline serve --connect http://{platform.node()}:{again.port}/api --pools laptop"
    assert command in again.output.read_text("utf8")
    assert httpx.get(f"{again.url}/ui-settings", timeout=PATIENCE_S).json()["api_url"] == "/api"


def test_after_a_kill_the_next_one_ends_what_was_left_and_sigterm_ends_it(
    again: Server, database: str, home: Path
) -> None:
    again.process.kill()
    again.process.wait()
    left = again.processes()
    assert {"slimline.flows.server.prefect_server", "worker"} <= {
        word for process in left for word in process.cmdline()
    }
    with run_server(home, "--database", database) as next_one:
        assert not any(process.is_running() for process in left)
        next_one.stop(signal.SIGTERM)
