"""How long queries take over many rows.

BIG_MEASUREMENTS=10000000 python -m benchmarks queries

asks a larger store.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.timing import Figure, slimline_command, time_in_turns
from tests.dashboards import big

TIMES = 5
TITLE = f"queries, {big.MEASUREMENTS:,} measurements, merged"
COMMANDS = {
    "`slimline table`": ("table",),
    "`slimline recommend`": ("recommend", "--host", "desk"),
    "`slimline regressions`": ("regressions",),
    '`slimline sql "from versus_published"`': ("sql", "from versus_published"),
    '`slimline sql "select count(*) from measurements"`': ("sql", "select count(*) from measurements"),
    "`slimline sql` of one variant's history": (
        "sql",
        "select time, value from history where host = 'desk' and study = 'paper' and variant = 'int8' "
        "and metric = 'samples_per_s'",
    ),
    "`slimline sql` of the mean of every metric": ("sql", "select metric, avg(value) from measurements group by all"),
}


def measure(directory: Path) -> Iterator[Figure]:
    """Commands over the same rows."""
    big.fill(directory / "metrics")
    actions = {what: slimline_command(*words, home=directory) for what, words in COMMANDS.items()}
    yield from time_in_turns(actions, TIMES)
