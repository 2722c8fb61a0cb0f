"""A child process that is started again: at once, then later and later, and ended in the end."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from slimline.flows.server import child_process
from slimline.flows.server.child_process import Child
from tests.command import program_command
from tests.flows.fakes import Clock

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(child_process, "time", clock)
    return clock


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "child.log"


def make_child(log: Path, *command: str) -> Child:
    return Child("child", command, os.environ, log)


@pytest.fixture
def sleeper(log: Path) -> Iterator[Child]:
    """A child that sleeps until it is killed."""
    child = make_child(log, sys.executable, "-c", "import time; time.sleep(600)")
    child.start()
    yield child
    child.stop(within_s=10)


def wait_for_end(child: Child) -> None:
    while child.is_alive():
        time.sleep(0.01)


def test_one_that_ends_early_is_started_again_each_time_later(log: Path, clock: Clock) -> None:
    child = make_child(log, *program_command(PROGRAMS / "fail.py"))
    child.start()
    delays = []
    for _ in range(8):
        wait_for_end(child)
        sentence = child.restart_if_ended()
        assert sentence and sentence.startswith("child: ended with status 3; starts again") and str(log) in sentence
        started = clock.now
        while not child.pid:
            child.restart_if_ended()
            if not child.pid:
                clock.sleep(0.5)
        delays.append(clock.now - started)
    assert delays == [0, 1, 3, 7, 15, 31, 60, 60]
    child.stop(within_s=10)
    assert child.log_tail().splitlines()[-1] == "the last line" and len(child.log_tail().splitlines()) == 8
    assert child.exit_status in (3, -15)


def test_one_that_has_run_for_long_is_started_again_at_once(log: Path, clock: Clock) -> None:
    child = make_child(log, *program_command(PROGRAMS / "fail.py"))
    child.start()
    for _ in range(3):
        wait_for_end(child)
        clock.sleep(child_process._LONGEST_DELAY_S + 1)
        assert "starts again now" in (child.restart_if_ended() or "")
        child.restart_if_ended()
    wait_for_end(child)


def test_a_killed_one_is_started_again_and_its_log_goes_on(sleeper: Child) -> None:
    assert sleeper.restart_if_ended() is None and sleeper.pid
    first = sleeper.pid
    os.kill(first, 9)
    wait_for_end(sleeper)
    assert "killed by SIGKILL; starts again now" in (sleeper.restart_if_ended() or "")
    sleeper.restart_if_ended()
    assert sleeper.is_alive() and sleeper.pid != first
    assert not sleeper.log.with_suffix(".old.log").exists()


def test_one_that_goes_on_after_sigterm_is_killed(log: Path) -> None:
    child = make_child(log, *program_command(PROGRAMS / "ignore_sigterm.py"))
    child.start()
    while "ready" not in child.log_tail():
        time.sleep(0.01)
    child.stop(within_s=0.1)
    assert child.exit_status == -9


def test_the_log_of_an_earlier_start_is_kept(log: Path) -> None:
    log.parent.mkdir()
    log.write_text("before")
    child = make_child(log, sys.executable, "-c", "")
    assert log.with_suffix(".old.log").read_text() == "before" and not log.exists()
    child.stop(within_s=1)  # it was never started
    assert child.pid is None and child.exit_status is None and not child.is_alive()
