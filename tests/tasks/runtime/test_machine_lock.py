"""The machine lock: one holder at a time whatever its home, freed by the kernel, safe in a directory of all users."""

import logging
import os
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest

from slimline.tasks.runtime import machine_lock as module
from slimline.tasks.runtime.machine_lock import (
    LOCK_DIRECTORY,
    LOCK_FILE,
    MachineLockError,
    lock_directory,
    machine_lock,
)
from tests.command import environment, program_command
from tests.system import PATIENCE_S

PROGRAM = Path(__file__).parent / "programs" / "hold_lock.py"


@pytest.fixture(autouse=True)
def lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The machine's lock file, as far as this test and its child processes know."""
    monkeypatch.setenv(LOCK_DIRECTORY, str(tmp_path))
    return tmp_path / LOCK_FILE


def start(home: Path, record: Path, sections: int, seconds: float, *options: str) -> subprocess.Popen[str]:
    """A process with its own home that holds the lock."""
    command = program_command(PROGRAM, record, sections, seconds, *options)
    return subprocess.Popen(command, env=environment(home), stdout=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], word: str) -> str:
    """The next line of its output, which starts with the word."""
    assert process.stdout
    line = process.stdout.readline()
    assert line.startswith(word)
    return line


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until it is killed."""
    process = start(tmp_path / "other", tmp_path / "record", 1, 600)
    wait_for(process, "holding")
    yield process
    kill(process)


def is_free(path: Path) -> bool:
    """Whether another thread, which never holds the lock by itself, gets it at once."""
    free: list[bool] = []

    def attempt() -> None:
        lock = module.FileLock(path)
        try:
            lock.acquire(blocking=False)
            free.append(True)
            lock.release()
        except module.Timeout:
            free.append(False)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return free[0]


@pytest.mark.e2e
def test_ten_runs_over_four_homes_never_overlap_also_when_one_is_killed(tmp_path: Path) -> None:
    record = tmp_path / "record"
    victim = start(tmp_path / "home0", record, 1, 600)
    wait_for(victim, "holding")
    runs = [start(tmp_path / f"home{number % 4}", record, 3, 0.05) for number in range(10)]
    assert not record.exists()
    victim.kill()  # SIGKILL: it cannot release anything
    assert [run.wait(PATIENCE_S) for run in runs] == [0] * 10
    for run in (victim, *runs):
        run.communicate()
    sections = sorted(tuple(map(int, line.split())) for line in record.read_text().splitlines())
    assert len(sections) == 30
    assert [(one, after) for one, after in pairwise(sections) if after[0] < one[1]] == []


def test_a_killed_holder_frees_the_lock_although_its_child_lives_on(tmp_path: Path, lock_file: Path) -> None:
    process = start(tmp_path / "other", tmp_path / "record", 1, 600, "orphan")
    orphan = psutil.Process(int(wait_for(process, "orphan").split()[1]))
    wait_for(process, "holding")
    assert not is_free(lock_file)
    process.kill()
    process.wait()
    assert orphan.is_running() and is_free(lock_file)
    orphan.kill()
    kill(process)


def test_a_forked_child_does_not_hold_its_parents_lock(lock_file: Path) -> None:
    context = get_context("fork")
    go_on = context.Event()
    with machine_lock("forking"):
        child = context.Process(target=go_on.wait)
        child.start()
    assert is_free(lock_file)
    go_on.set()
    child.join()


def test_the_thread_that_holds_it_goes_on_and_others_wait(lock_file: Path) -> None:
    with machine_lock("outer"):
        with machine_lock("inner"):
            assert not is_free(lock_file)
        assert not is_free(lock_file)
    assert is_free(lock_file)


def test_an_error_inside_frees_it(lock_file: Path) -> None:
    with pytest.raises(ZeroDivisionError), machine_lock("failing"):
        _ = 1 / 0
    assert is_free(lock_file)


class Kill(logging.Handler):
    """Collects messages, and kills a process at the first."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__()
        self.messages: list[str] = []
        self._process = process

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        self._process.kill()


def test_a_waiter_says_once_what_it_waits_for_and_for_whom(
    tmp_path: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TELL_AFTER_S", 0.0)
    kill_holder = Kill(holder)
    module._log.addHandler(kill_holder)
    with machine_lock("timing int8"):
        module._log.removeHandler(kill_holder)
    (message,) = kill_holder.messages
    user = psutil.Process().username()
    assert message.startswith("timing int8 waits")
    assert message.endswith(f"process {holder.pid} of {user}: section 0 of {tmp_path / 'other'}")


def test_the_file_is_for_every_user_whatever_the_umask_is(lock_file: Path) -> None:
    before = os.umask(0o077)
    try:
        with machine_lock("sharing"):
            assert stat.S_IMODE(lock_file.stat().st_mode) == 0o666
    finally:
        os.umask(before)


def make_link(path: Path) -> None:
    target = path.with_name("target")
    target.write_text("kept")
    path.symlink_to(target)


def make_second_name(path: Path) -> None:
    target = path.with_name("target")
    target.write_text("kept")
    path.hardlink_to(target)


@pytest.mark.parametrize("make", [make_link, make_second_name, os.mkfifo, Path.mkdir])
def test_what_is_not_a_regular_file_is_refused_and_left_alone(make: Callable[[Path], object], lock_file: Path) -> None:
    make(lock_file)
    with pytest.raises(MachineLockError, match=f"{lock_file}.*{LOCK_DIRECTORY}"), machine_lock("attacking"):
        pass
    target = lock_file.with_name("target")
    assert not target.exists() or target.read_text() == "kept"


def test_nothing_but_plain_text_of_the_file_is_shown(lock_file: Path) -> None:
    lock_file.write_bytes(b"\x1b[2Jprocess 1\n\xff" + b"x" * 10_000)
    shown = module._read_holder(lock_file)
    assert shown.startswith("[2Jprocess 1") and shown.isprintable() and len(shown) <= module._LONGEST_HOLDER
    lock_file.unlink()
    assert module._read_holder(lock_file) == "another process"


def test_the_directory_is_the_first_that_every_user_may_write_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(LOCK_DIRECTORY)
    of_root, of_all = tmp_path / "of_root", tmp_path / "of_all"
    of_root.mkdir(mode=0o755)
    of_all.mkdir()
    of_all.chmod(0o1777)
    monkeypatch.setattr(module, "_CANDIDATES", (tmp_path / "missing", of_root, of_all))
    assert lock_directory() == of_all
    of_all.chmod(0o777)  # not sticky: anybody could replace the file
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path / "fallback"))
    assert lock_directory() == tmp_path / "fallback"


@pytest.mark.parametrize("chosen", ["relative", "/no/such/directory", __file__])
def test_a_directory_that_is_none_is_named(chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "relative").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(LOCK_DIRECTORY, chosen)
    with pytest.raises(MachineLockError, match=f"{LOCK_DIRECTORY} is '{chosen}'.*absolute path"):
        lock_directory()
