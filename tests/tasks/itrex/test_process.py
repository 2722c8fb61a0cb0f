"""What becomes of a worker that is killed, says nothing, or fails; and of one whose parent ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from slimline.tasks.itrex import process
from slimline.tasks.itrex.environment import ItrexError
from slimline.tasks.itrex.process import run_worker
from slimline.tasks.itrex.pruning import prune
from slimline.tasks.itrex.quantization import quantize
from slimline.tasks.runtime.progress import progress_listener
from slimline.tasks.specs import ItrexPrune
from tests.command import program_command
from tests.system import PATIENCE_S

PROGRAMS = Path(__file__).parent / "programs"
SPEC = ItrexPrune(window=16, batch_size=4, max_steps=2)
FAILURES = {
    "killed": r"was killed by SIGKILL.*memory",
    "silent": r"no sign of life for .* minutes",
    "failing": r"ended with status 1: ValueError: no such thing$",
}


@pytest.fixture(params=FAILURES)
def failure(
    request: pytest.FixtureRequest, imitation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A pattern of the error that a worker's failure is; afterwards, no worker is left."""
    script = shutil.copy(PROGRAMS / "worker_that_fails.py", tmp_path)
    monkeypatch.setattr(process, "WORKER", script)
    workers: list[int] = []

    def listen(description: str, share: float) -> None:
        if description.isdigit():
            workers.append(int(description))
            if request.param == "killed":
                os.kill(workers[-1], signal.SIGKILL)

    if request.param == "silent":
        monkeypatch.setattr(process, "SILENT_SECONDS", 1.0)
    if request.param == "failing":
        (tmp_path / "fail").touch()
    with progress_listener(listen):
        yield FAILURES[request.param]
    assert len(workers) == 1 and not psutil.pid_exists(workers[0])


def test_a_worker_that_fails_is_an_error(failure: str, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(ItrexError, match=failure):
        run_worker({"what": "prune"}, scratch)


def test_nothing_of_a_failed_pruning_is_left(failure: str, model_dir: Path, slice_dir: Path, tmp_path: Path) -> None:
    target, work = tmp_path / "target", tmp_path / "work"
    target.mkdir()
    with pytest.raises(ItrexError, match=failure):
        prune(SPEC, model_dir, slice_dir, target, work)
    assert not [*target.iterdir(), *work.iterdir()]


def test_nothing_of_a_failed_quantization_is_left(
    failure: str, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, scratch = tmp_path / "target", tmp_path / "scratch"
    target.mkdir()
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    with pytest.raises(ItrexError, match=failure):
        quantize(model_dir, target)
    assert not [*target.iterdir(), *scratch.iterdir()]


@pytest.mark.e2e
def test_a_worker_ends_with_its_parent(tmp_path: Path) -> None:
    command = program_command(PROGRAMS / "wait_for_worker.py", tmp_path)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        worker = psutil.Process(int(parent.stdout.readline()))
        assert worker.ppid() == parent.pid
        parent.kill()
    wait_for(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_worker_without_its_parent_does_not_begin(tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    path.write_text(json.dumps({"what": "quantize", "parent": os.getpid() + 1, "output": str(tmp_path)}))
    command = [sys.executable, "-P", "-I", str(process.WORKER), str(path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert "parent process ended" in finished.stderr
