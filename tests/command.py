"""The slimline command, as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_command(
    *arguments: str, home: Path, source: Path = ROOT, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """The slimline command of a source tree, in a process of its own, with its state in `home`."""
    finished = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=source,
        env={**os.environ, "SLIMLINE_HOME": str(home)},
        check=False,
    )
    if check and finished.returncode:
        raise AssertionError(f"slimline {' '.join(arguments)} ended with {finished.returncode}:\n{finished.stderr}")
    return finished
