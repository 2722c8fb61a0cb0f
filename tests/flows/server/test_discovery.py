"""How commands find the server of their state directory, and `serve` the processes that it has started."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from slimline.flows.server.discovery import MARK, ServerRecord, processes_with_mark, remove_record, running_server
from slimline.storage.fs import start_time
from tests.command import ROOT, environment, program_command

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIMLINE_HOME", str(tmp_path))
    return tmp_path


def test_a_server_is_found_while_its_process_runs(home: Path) -> None:
    assert running_server() is None
    record = ServerRecord("http://127.0.0.1:4200", os.getpid(), start_time(os.getpid()) or 0, "secret")
    record.write()
    assert running_server() == record and record.api == "http://127.0.0.1:4200/api"
    remove_record()
    assert running_server() is None and not (home / "serve.json").exists()
    remove_record()


def test_a_record_of_an_earlier_process_with_that_identifier_is_stale(home: Path) -> None:
    ServerRecord("http://127.0.0.1:4200", os.getpid(), (start_time(os.getpid()) or 0) - 1, "secret").write()
    assert running_server() is None


def test_a_record_of_a_process_that_has_ended_is_stale(home: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    started = start_time(ended.pid) or 0
    ended.wait()
    ServerRecord("http://127.0.0.1:4200", ended.pid, started, "secret").write()
    assert running_server() is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"url": "http://127.0.0.1:4200"}', "\udcff"])
def test_a_damaged_record_is_as_none(content: str, home: Path) -> None:
    (home / "serve.json").write_bytes(content.encode("utf8", "surrogateescape"))
    assert running_server() is None


def test_commands_on_the_home_prefer_its_server_unless_told_otherwise(home: Path) -> None:
    ServerRecord("http://127.0.0.1:4321", os.getpid(), start_time(os.getpid()) or 0, "secret").write()
    show = [sys.executable, "-c", "import slimline.flows, os; print(os.environ.get('PREFECT_API_URL'))"]
    for settings, expected in (
        ({}, "http://127.0.0.1:4321/api"),
        ({"PREFECT_API_URL": "http://desk/api"}, "http://desk/api"),
    ):
        variables = environment(home) | settings
        assert subprocess.check_output(show, cwd=ROOT, env=variables, text=True).strip() == expected


def test_what_has_the_mark_is_found_through_any_number_of_parents(tmp_path: Path) -> None:
    variables = {**os.environ, MARK: str(tmp_path)}
    command = program_command(PROGRAMS / "sleep_with_child.py")
    parent = subprocess.Popen(command, env=variables, stdin=subprocess.PIPE)
    while len(list(processes_with_mark(tmp_path))) < 2:
        time.sleep(0.01)
    assert not list(processes_with_mark(tmp_path / "other"))
    (child,) = (process for process, _ in processes_with_mark(tmp_path) if process.pid != parent.pid)
    parent.kill()
    parent.wait()
    assert [process.pid for process, _ in processes_with_mark(tmp_path)] == [child.pid]
    parent.communicate()
    psutil.wait_procs([child], timeout=10)
