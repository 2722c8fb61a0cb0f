"""The slimline command, as a user runs it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from slimline.tasks.runtime.machine_lock import LOCK_DIRECTORY

ROOT = Path(__file__).parents[1]
# The slice of the smoke study, which is in every prepared home: making another takes a minute.
SMOKE_DATA = {"train_files": 40, "dev_files": 8, "samples": 24}
FIRST_RUN = "slimline run smoke"
SECOND_RUN = "slimline run smoke --variants pruned,int8 --rounds 1"


class FirstRun(NamedTuple):
    """A run of the smoke study: where its state is, and what it printed."""

    home: Path
    stdout: str
    stderr: str


def environment(home: Path) -> dict[str, str]:
    """What the command sees: its state in `home`, none of the settings that importing flows made for this process."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name == LOCK_DIRECTORY or not name.startswith(("PREFECT_", "SLIMLINE_", "PYTHONSAFEPATH"))
    }
    return {**inherited, "SLIMLINE_HOME": str(home)}


def copy_source(directory: Path) -> Path:
    """Copy slimline's code to where a test may edit it; the new import path, with the package `slimline` below it."""
    for part in ("flows", "tasks", "storage", "dashboards"):
        shutil.copytree(ROOT / part, directory / "slimline" / part, ignore=shutil.ignore_patterns("__pycache__"))
    return directory


def program_command(program: Path, *arguments: object) -> list[str]:
    """The command that runs a program of a `programs` folder, without the current directory in its import path."""
    return [sys.executable, "-P", str(program), *map(str, arguments)]


def run_program(
    program: Path, *arguments: object, timeout: float = 600, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run a program of a `programs` folder in a process of its own; it has to end well.

    `settings` are further variables of its environment.
    """
    finished = subprocess.run(
        program_command(program, *arguments),
        capture_output=True,
        text=True,
        env=os.environ | settings,
        timeout=timeout,
        check=False,
    )
    if finished.returncode:
        raise AssertionError(f"{program.name} ended with {finished.returncode}:\n{finished.stderr}")
    return finished


def run_command(
    *arguments: str, home: Path, source: Path | None = None, check: bool = True, **settings: str
) -> subprocess.CompletedProcess[str]:
    """The slimline command, in a process of its own, with its state in `home`; of a `copy_source` if one is given.

    `settings` are further variables of its environment.
    """
    finished = subprocess.run(
        [sys.executable, "-m", "slimline.flows.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(home) | ({"PYTHONPATH": str(source)} if source else {}) | settings,
        check=False,
    )
    if check and finished.returncode:
        raise AssertionError(f"slimline {' '.join(arguments)} ended with {finished.returncode}:\n{finished.stderr}")
    return finished
