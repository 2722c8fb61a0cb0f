"""How long queries take over many rows, and over many files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.timing import Figure, slimline_command, time_in_turns
from tests.dashboards import big

TIMES = 5
FILES = 2000
TITLE = f"queries, {big.MEASUREMENTS:,} measurements in one file a month, or in {FILES:,} files"
COMMANDS = {
    "`slimline table`": ("table",),
    "`slimline regressions`": ("regressions",),
    '`slimline sql "select count(*) from measurements"`': ("sql", "select count(*) from measurements"),
    "`slimline sql` of one variant's history": (
        "sql",
        "select time, value from history where host = 'desk' and study = 'paper' and variant = 'int8' "
        "and metric = 'samples_per_s'",
    ),
    "`slimline sql` of the mean of every metric": ("sql", "select metric, avg(value) from measurements group by all"),
}


def measure(directory: Path) -> Iterator[Figure]:
    """Commands over the same rows, stored in both ways."""
    merged, scattered = directory / "merged", directory / "scattered"
    big.fill(merged / "metrics")
    shutil.copytree(merged, scattered)
    scatter(scattered / "metrics" / "measurements")
    actions = {}
    for home, where in ((merged, "merged"), (scattered, f"{FILES:,} files")):
        actions |= {f"{what}, {where}": slimline_command(*words, home=home) for what, words in COMMANDS.items()}
    yield from time_in_turns(actions, TIMES)


def scatter(table: Path) -> None:
    """Split every file of a table, as runs append them before they are merged, into FILES files in all."""
    files = sorted(table.rglob("*.parquet"))
    parts = -(-FILES // len(files))
    for file in files:
        rows = pq.read_table(file, partitioning=None)
        size = -(-len(rows) // parts)
        for start in range(0, len(rows), size):
            pq.write_table(rows.slice(start, size), file.with_name(f"part-{start:07}.parquet"), compression="zstd")
        file.unlink()
