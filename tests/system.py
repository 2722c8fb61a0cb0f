"""What tests expect of the machine: programs of its operating system, and no speed."""

import os
import shutil
from typing import NoReturn

import pytest

PATIENCE_S = 600
"""How long a test waits for what should be soon: a busy machine is no failure."""


def require(binary: str) -> str:
    """The path of a program; without it a test is skipped on a laptop, but fails where CI is set."""
    path = shutil.which(binary, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        give_up(f"{binary} is not installed")
    return path


def give_up(reason: str) -> NoReturn:
    """Skip a test for what this machine lacks; where CI is set, it fails."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
