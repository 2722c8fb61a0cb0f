"""Child processes: how our own modules are started in one, and how it ends with its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


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
