"""Running the worker: in a process of ITREX's environment, which ends with this one, and is watched."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from pathlib import Path
from typing import Any

from slimline.tasks.itrex import worker
from slimline.tasks.itrex.environment import ItrexError, python_of_environment
from slimline.tasks.runtime.progress import progress_bar

SILENT_SECONDS = 15 * 60.0
"""After as long without a line the worker is taken for stuck; it prints one for each step of a training."""
WORKER = Path(worker.__file__)


def run_worker(request: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Have the worker do something, and wait for it; listeners are told of its progress.

    Args:
        request: Fields of a request of `worker`.
        directory: An existing one, for all files of the worker; what it makes is in its `output`.

    Returns:
        The worker's result.

    Raises:
        ItrexError: the environment is not fit, or the worker was killed, was silent for `SILENT_SECONDS`, or failed.
    """
    python = python_of_environment()
    output, scratch = directory / "output", directory / "scratch"
    output.mkdir()
    scratch.mkdir()
    path = directory / "request.json"
    path.write_text(json.dumps(request | {"parent": os.getpid(), "output": str(output)}), encoding="utf-8")
    with (directory / "errors.txt").open("w+", encoding="utf-8", errors="replace") as errors:
        status = _wait([str(python), "-P", "-I", str(WORKER), str(path)], scratch, errors.fileno())
        if status:
            errors.seek(0)
            raise ItrexError(f"ITREX: {request['what']} {_reason(status, errors.read())}")
    result: dict[str, Any] = json.loads((output / worker.RESULT).read_text(encoding="utf-8"))
    return result


def _wait(command: list[str], scratch: Path, errors: int) -> int:
    """The exit status of a worker, once it has ended; whatever happens, it does not run on."""
    environment = os.environ | {"HF_HOME": str(scratch)}  # its libraries would make directories in the user's home
    with subprocess.Popen(  # noqa: S603 - the environment's interpreter, and a script of ours
        command, stdout=subprocess.PIPE, stderr=errors, cwd=scratch, env=environment
    ) as process:
        try:
            assert process.stdout
            _follow(process.stdout.fileno())
            return process.wait(SILENT_SECONDS)
        except (TimeoutError, subprocess.TimeoutExpired):
            raise ItrexError(f"ITREX: no sign of life for {SILENT_SECONDS / 60:g} minutes; it was killed") from None
        finally:
            process.kill()


def _follow(pipe: int) -> None:
    """Pass on what a worker says, until it says no more.

    Raises:
        TimeoutError: it says nothing for too long.
    """
    rest = b""
    with progress_bar() as bar:
        task = bar.add_task("starting ITREX", total=100)
        while select.select([pipe], [], [], SILENT_SECONDS)[0]:
            if not (piece := os.read(pipe, 1 << 16)):
                return
            *lines, rest = (rest + piece).split(b"\n")
            for said in map(json.loads, lines):
                bar.update(task, description=said["description"], completed=round(100 * said["share"]))
    raise TimeoutError


def _reason(status: int, errors: str) -> str:
    """Why a worker ended with a status other than 0."""
    if status > 0:
        return f"ended with status {status}: {' '.join(errors.splitlines()[-1:])}"
    name = signal.Signals(-status).name
    out_of_memory = "; usually because the memory is used up" if name == "SIGKILL" else ""
    return f"was killed by {name}{out_of_memory}"
