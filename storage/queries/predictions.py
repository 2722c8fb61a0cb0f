"""Predictions: who completed the samples of a run, and what two of them made of the same samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

from slimline.storage.metrics.connection import fetch

if TYPE_CHECKING:
    import duckdb

_SETS = """
SELECT run, variant, host FROM predictions WHERE run = ? GROUP BY ALL
ORDER BY bool_or(variant IN (SELECT baseline FROM runs)) DESC, variant, host
"""
_OTHER_RUNS = "SELECT DISTINCT run FROM predictions WHERE host IS NOT DISTINCT FROM ? AND run <> ? ORDER BY run DESC"
_PAIRS = """
SELECT sample, target,
    {'prediction': a.prediction, 'es': a.es, 'em': a.em} AS a, {'prediction': b.prediction, 'es': b.es, 'em': b.em} AS b
FROM (FROM predictions WHERE run = ? AND variant = ? AND host IS NOT DISTINCT FROM ?) AS a
INNER JOIN (FROM predictions WHERE run = ? AND variant = ? AND host IS NOT DISTINCT FROM ?) AS b
    USING (sample, target)
ORDER BY abs(a.es - b.es) DESC, sample
"""


class PredictionSet(BaseModel, frozen=True):
    """A variant's predictions in one run on one host."""

    run: str
    variant: str
    host: str | None


class Completion(BaseModel, frozen=True):
    """A completed line, its edit similarity to the target (0 to 100), and whether it is the target."""

    prediction: str | None
    es: int
    em: bool


class PredictionPair(BaseModel, frozen=True):
    """A sample that both sides completed."""

    sample: int
    target: str
    a: Completion
    b: Completion

    @property
    def differs(self) -> bool:
        """Whether the two completed it otherwise."""
        return self.a.prediction != self.b.prediction


def prediction_sets(connection: duckdb.DuckDBPyConnection, run: str) -> list[PredictionSet]:
    """The predictions of a run, the baseline's first."""
    return fetch(connection, PredictionSet, _SETS, [run])


def other_runs(connection: duckdb.DuckDBPyConnection, host: str | None, run: str) -> list[str]:
    """The other runs with predictions on a host, the newest first."""
    return [name for (name,) in connection.execute(_OTHER_RUNS, [host, run]).fetchall()]


def prediction_pairs(connection: duckdb.DuckDBPyConnection, a: PredictionSet, b: PredictionSet) -> list[PredictionPair]:
    """The samples that both completed, those first whose edit similarity differs most."""
    sides = [value for side in (a, b) for value in (side.run, side.variant, side.host)]
    return fetch(connection, PredictionPair, _PAIRS, sides)
