"""Child processes: how our own modules are started in one, and how it ends with its parent."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class ChildExitError(RuntimeError):
    """A child process ended with an error; the message has its exit status and the last line it printed."""

    def __init__(self, status: int, stderr: str) -> None:
        self.status = status
        self.last_line = " ".join(stderr.splitlines()[-1:])
        super().__init__(f"exit status {status}: {self.last_line}")


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends, as it does with `parent` (Linux).

    Unlike watching a pipe this works inside a library's long computation; that thread must wait for this process.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent process ended before the work began")


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of an installed package in a new process.

    `-P` keeps the current directory out of the import path: a user's `tasks.py` or `json.py` there is never run.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def run_json_module(
    module: str, *arguments: str, environment: Mapping[str, str], timeout_s: float | None = None
) -> Any:
    """Run a module in a new process and wait for its result, the JSON in the last line of its standard output.

    Args:
        module: A module of an installed package.
        arguments: Its command-line arguments.
        environment: All environment variables of the new process.
        timeout_s: Seconds after which the process is killed; None: never.

    Raises:
        ChildExitError: the exit status is not 0.
        subprocess.TimeoutExpired: there was no result in time.
    """
    command = module_command(module, *arguments)
    result = subprocess.run(  # noqa: S603 - our own interpreter and module
        command, capture_output=True, text=True, env=environment, timeout=timeout_s, check=False
    )
    if result.returncode:
        raise ChildExitError(result.returncode, result.stderr)
    return json.loads(result.stdout.splitlines()[-1])
