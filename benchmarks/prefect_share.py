"""What Prefect costs a run: a flow that does nothing, beside a run that only measures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.timing import Figure, python_command, slimline_command, time_in_turns

TIMES = 3
TITLE = "Prefect's share of a run"
EMPTY_FLOW = Path(__file__).parent / "programs" / "empty_flow.py"
RUN = ("run", "smoke", "--variants", "int8", "--rounds", "1", "--samples", "4")


def measure(directory: Path) -> Iterator[Figure]:
    """The first turn builds everything and makes Prefect's database, and is not timed."""
    home = directory / "runs"
    home.mkdir()
    actions = {
        "a flow without a task, its server included": python_command("-P", str(EMPTY_FLOW), "0", home=home),
        "a flow with 20 tasks that do nothing": python_command("-P", str(EMPTY_FLOW), "20", home=home),
        f"`slimline {' '.join(RUN)}`, all built": slimline_command(*RUN, home=home),
    }
    yield from time_in_turns(actions, TIMES)
