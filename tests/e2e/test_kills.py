"""Processes that are killed while they work on a store leave it whole: nothing that was announced is lost or doubled.

SLIMLINE_KILLS=300 pytest -m long tests/e2e/test_kills.py prints what docs/reliability.md has.
"""

import json
import os
from pathlib import Path

import pytest

from tests.command import run_program

pytestmark = [pytest.mark.e2e, pytest.mark.long]

PROGRAM = Path(__file__).parent / "programs" / "kill_trials.py"
OPERATIONS = ("publish", "append", "compact", "gc", "push")
KILLS = int(os.environ.get("SLIMLINE_KILLS", "50"))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("place", ["local", "s3"])
def test_kill_nine_loses_and_doubles_nothing(
    operation: str, place: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue("s3") if place == "s3" else str(tmp_path / "store")
    (tmp_path / "scratch").mkdir()
    finished = run_program(PROGRAM, operation, url, KILLS // (2 * len(OPERATIONS)), TMPDIR=str(tmp_path / "scratch"))
    found = json.loads(finished.stdout)
    print(f"{place} {operation}: {found}")
    assert found["killed"] > 0 and found["announced"] > 0
    assert (found["missing"], found["wrong"], found["problems"]) == ([], [], [])
