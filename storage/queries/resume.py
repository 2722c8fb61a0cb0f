"""What a run has stored of a host already, so that a killed one goes on instead of measuring twice."""

from __future__ import annotations

from typing import NamedTuple

from slimline.storage.metrics.connection import fetch
from slimline.storage.metrics.rows import RoundRow
from slimline.storage.metrics.store import MetricsStore

_COUNTS = """
SELECT (SELECT count(*) FROM hosts WHERE run = $run AND host = $host) > 0,
       (SELECT count(*) FROM measurements WHERE run = $run AND host = $host) > 0,
       (SELECT count(*) FROM runs WHERE run = $run AND host = $host) > 0
"""
_FAILURES = """
SELECT host, variant, error FROM result_figures WHERE run = $run AND error IS NOT NULL
UNION ALL SELECT host, variant, error FROM rounds WHERE run = $run AND error IS NOT NULL
"""


class StoredRows(NamedTuple):
    """Rows of one run on one host: its rounds, who has predictions, and whether the other tables have theirs."""

    rounds: list[RoundRow]
    predicted: frozenset[str]
    described: bool
    measured: bool
    recorded: bool

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.measured and self.recorded


def stored_rows(metrics: MetricsStore, run: str, host: str) -> StoredRows:
    """What the store has of this run on this host, read through one connection."""
    with metrics.connect() as connection:
        rounds = fetch(connection, RoundRow, "FROM rounds WHERE run = ? AND host = ?", [run, host])
        predicted = connection.execute(
            "SELECT DISTINCT variant FROM predictions WHERE run = ? AND host = ?", [run, host]
        ).fetchall()
        counts = connection.execute(_COUNTS, {"run": run, "host": host}).fetchone() or (False, False, False)
    return StoredRows(rounds, frozenset(variant for (variant,) in predicted), *counts)


def failures(metrics: MetricsStore, run: str) -> dict[tuple[str, str], str]:
    """The first reason why a variant failed in a run, by host and variant."""
    with metrics.connect() as connection:
        rows = connection.execute(_FAILURES, {"run": run}).fetchall()
    return {(host, variant): error for host, variant, error in reversed(rows)}
