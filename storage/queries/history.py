"""What nightly judgement reads: a run on a host, and every earlier run of its study on hosts of the same class."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from slimline.storage.metrics.store import MetricsStore

if TYPE_CHECKING:
    import duckdb

Row = dict[str, Any]

_CONDUCTED = """
WITH described AS (
    SELECT run, host, any_value(fingerprint) AS host_class FROM hosts GROUP BY run, host
)
SELECT run, host, study, baseline, started, coalesce(host_class, host) AS host_class, tainted, noise_floor,
       versions, git_commit, spec, error
FROM runs LEFT JOIN described USING (run, host)
WHERE {condition}
QUALIFY row_number() OVER (PARTITION BY run, host ORDER BY finished DESC NULLS LAST) = 1
ORDER BY started, run, host
"""
# By each sample's fastest pass, where it was recorded: nights are compared, not felt.
_ROUNDS = """
SELECT run, host, round, variant, coalesce(undisturbed_per_s, samples_per_s) AS samples_per_s,
       coalesce(undisturbed_ratio, speed_ratio) AS speed_ratio,
       coalesce(undisturbed_self_ratio, baseline_self_ratio) AS baseline_self_ratio,
       memory_over_base_mb, samples, prompt_tokens
FROM paired_rounds WHERE run IN (SELECT unnest(?)) ORDER BY run, host, variant, round
"""
_MEASURED = """
SELECT run, host, variant, metric, value, metric_version, error FROM measurements
WHERE run IN (SELECT unnest(?)) AND metric IN (SELECT unnest(?))
QUALIFY row_number() OVER (PARTITION BY run, host, variant, metric ORDER BY time DESC) = 1
"""
_PREDICTIONS = "SELECT sample, target, es, em FROM predictions WHERE run = ? AND host = ? AND variant = ?"
_RERUNS = "SELECT DISTINCT unnest(rerun) FROM verdicts"


@dataclass(frozen=True)
class Conducted:
    """One run on one host: what was asked for, with what software, and whether its noise tainted it."""

    run: str
    host: str
    study: str
    baseline: str
    started: datetime
    host_class: str
    tainted: bool | None
    noise_floor: float | None
    versions: Mapping[str, str]
    git_commit: str | None
    spec: Mapping[str, Any]
    error: str | None

    @property
    def key(self) -> tuple[str, str]:
        """What identifies it: run and host."""
        return self.run, self.host


@dataclass(frozen=True)
class History:
    """A run on a host (`now`), the earlier ones on its class of hosts (`past`, oldest first), and rows of them all.

    `rounds` are rows of `paired_rounds`, `measured` of `measurements`, `verdicts` earlier verdicts. What was measured
    again in a night belongs to that night: a re-run is none of its own.
    """

    now: Conducted
    past: tuple[Conducted, ...]
    rounds: Sequence[Row]
    measured: Sequence[Row]
    verdicts: Sequence[Row]


def read_history(store: MetricsStore, run: str, host: str, metrics: Sequence[str], nights: int) -> History:
    """All there is to judge these metrics of a run on a host: at most `nights` earlier runs. Raises LookupError."""
    with store.connect() as connection:
        found = _conducted(connection, "run = ? AND host = ?", [run, host])
        if not found:
            raise LookupError(f"run {run!r} is not stored of host {host!r}")
        now = found[0]
        earlier = "study = ? AND started < ? AND run <> ? AND coalesce(host_class, host) = ? AND baseline IS NOT NULL"
        condition = f"{earlier} AND run NOT IN ({_RERUNS})"
        past = _conducted(connection, condition, [now.study, now.started, run, now.host_class])[-nights:]
        judged = "FROM verdicts WHERE study = ? AND coalesce(host_class, host) = ? AND time < ? ORDER BY time, run"
        verdicts = _rows(connection, judged, [now.study, now.host_class, now.started])
        runs = [run, *(each.run for each in past)]
        again = [other for row in verdicts for other in row["rerun"] or ()]
        return History(
            now,
            tuple(past),
            _rows(connection, _ROUNDS, [[*runs, *again]]),
            _rows(connection, _MEASURED, [runs, list(metrics)]),
            verdicts,
        )


def read_rounds(store: MetricsStore, runs: Sequence[str]) -> list[Row]:
    """The rows of `paired_rounds` of some runs."""
    with store.connect() as connection:
        return _rows(connection, _ROUNDS, [list(runs)])


def read_predictions(store: MetricsStore, conducted: Conducted, variant: str) -> dict[tuple[int, str], Row]:
    """A variant's scored completions in a run on a host, by sample and target."""
    with store.connect() as connection:
        rows = _rows(connection, _PREDICTIONS, [conducted.run, conducted.host, variant])
    return {(row["sample"], row["target"]): row for row in rows}


def hosts_of(store: MetricsStore, run: str) -> list[str]:
    """The hosts a run was conducted on."""
    with store.connect() as connection:
        rows = _rows(connection, "SELECT DISTINCT host FROM runs WHERE run = ? ORDER BY host", [run])
    return [row["host"] for row in rows]


def _conducted(connection: duckdb.DuckDBPyConnection, condition: str, values: list[Any]) -> list[Conducted]:
    rows = _rows(connection, _CONDUCTED.format(condition=condition), values)
    parsed = ({name: json.loads(row[name] or "{}") for name in ("versions", "spec")} for row in rows)
    return [Conducted(**(row | documents)) for row, documents in zip(rows, parsed, strict=True)]


def _rows(connection: duckdb.DuckDBPyConnection, sql: str, values: list[Any]) -> list[Row]:
    answer = connection.execute(sql, values)
    names = [column[0] for column in answer.description or ()]
    return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
