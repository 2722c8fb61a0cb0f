"""Metrics over time: the series of a study, their points, and what may explain a change of their level."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel

from slimline.storage.metrics.connection import fetch
from slimline.storage.metrics.rows import Verdict, Versions

if TYPE_CHECKING:
    import duckdb

_SERIES = """
SELECT host, variant, metric FROM measurements WHERE study = ? AND value IS NOT NULL
GROUP BY ALL ORDER BY bool_or(label = 'baseline') DESC, variant, metric, host
"""
# What has another definition does not compare. Of neighbours that share a point the median is taken.
_POINTS = """
WITH numbered AS (
    SELECT *,
        row_number() OVER (PARTITION BY variant ORDER BY time, run) - 1 AS place,
        count(*) OVER (PARTITION BY variant) AS runs
    FROM (
        FROM history WHERE study = ? AND host = ? AND metric = ? AND list_contains(?, variant)
        QUALIFY metric_version IS NOT DISTINCT FROM max(metric_version) OVER ()
    )
)
SELECT variant, host, metric, max(time) AS time, arg_max(run, time) AS run, median(value) AS value,
    median(lo) AS lo, median(hi) AS hi, any_value(unit) AS unit, count(*) AS runs,
    arg_max(relative_change, time) AS relative_change, bool_or(tainted) AS tainted
FROM numbered GROUP BY variant, host, metric, place * least(runs, ?) // runs
ORDER BY variant, time
"""
_VERSIONS = """
SELECT min(started) AS time, run, any_value(versions) AS versions
FROM runs WHERE study = ? AND host = ? AND versions IS NOT NULL GROUP BY run ORDER BY time, run
"""
_CHANGES = """
SELECT change_time AS time, change_point AS run, variant, arg_max(verdict, time) AS verdict,
    arg_max(ratio, time) AS ratio, arg_max(reason, time) AS reason
FROM verdicts WHERE study = ? AND host = ? AND metric = ? AND list_contains(?, variant) AND change_time IS NOT NULL
GROUP BY ALL ORDER BY time
"""


class Series(BaseModel, frozen=True):
    """A metric of a variant on a host that has at least one value."""

    host: str
    variant: str
    metric: str


class SeriesPoint(BaseModel, frozen=True):
    """A value of a series with its 95 % interval; of several `runs` that share a point, their medians.

    `run` and `relative_change` (0.1: 10 % more than the run before) are those of the newest of them.
    """

    variant: str
    host: str
    metric: str
    time: datetime
    run: str
    value: float
    lo: float | None = None
    hi: float | None = None
    unit: str | None = None
    runs: int = 1
    relative_change: float | None = None
    tainted: bool | None = None


class RunVersions(BaseModel, frozen=True):
    """The versions of the libraries that a run had on a host."""

    time: datetime
    run: str
    versions: Versions


class ChangePoint(BaseModel, frozen=True):
    """Where the level of a series changed, by the newest verdict that says so: the first run at the new level."""

    time: datetime
    run: str | None
    variant: str
    verdict: Verdict
    ratio: float | None
    reason: str | None


def study_series(connection: duckdb.DuckDBPyConnection, study: str) -> list[Series]:
    """The series of a study, the baseline's first."""
    return fetch(connection, Series, _SERIES, [study])


def series_points(
    connection: duckdb.DuckDBPyConnection, study: str, host: str, metric: str, variants: Sequence[str], most: int
) -> list[SeriesPoint]:
    """The points of some variants in the newest definition of a metric, at most `most` a variant, oldest first."""
    return fetch(connection, SeriesPoint, _POINTS, [study, host, metric, variants, most])


def run_versions(connection: duckdb.DuckDBPyConnection, study: str, host: str) -> list[RunVersions]:
    """The versions of every run of a study on a host, oldest first."""
    return fetch(connection, RunVersions, _VERSIONS, [study, host])


def change_points(
    connection: duckdb.DuckDBPyConnection, study: str, host: str, metric: str, variants: Sequence[str]
) -> list[ChangePoint]:
    """Where nightly runs have found that the level of a metric changed, oldest first."""
    return fetch(connection, ChangePoint, _CHANGES, [study, host, metric, variants])
