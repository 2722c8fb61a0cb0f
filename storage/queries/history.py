"""What nightly judgement reads: a run on a host, and every earlier run of its study on hosts of the same class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from slimline.storage.metrics.connection import fetch
from slimline.storage.metrics.rows import JsonObject, MeasurementRow, PredictionRow, VerdictRow, Versions
from slimline.storage.metrics.store import MetricsStore

if TYPE_CHECKING:
    import duckdb

_HOST_RUNS = """
WITH described AS (
    SELECT run, host, any_value(fingerprint) AS host_class FROM hosts GROUP BY run, host
)
SELECT run, host, study, baseline, started, coalesce(host_class, host) AS host_class, tainted, noise_floor,
       coalesce(versions, '{{}}') AS versions, git_commit, coalesce(spec, '{{}}') AS spec, error
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
_MEASUREMENTS = """
SELECT * FROM measurements WHERE run IN (SELECT unnest(?)) AND metric IN (SELECT unnest(?))
QUALIFY row_number() OVER (PARTITION BY run, host, variant, metric ORDER BY time DESC) = 1
"""
_PREDICTIONS = "SELECT * FROM predictions WHERE run = ? AND host = ? AND variant = ?"
_RERUNS = "SELECT DISTINCT unnest(rerun) FROM verdicts"


class HostRun(BaseModel):
    """One run on one host: what was asked for, with what software, and whether its noise tainted it."""

    model_config = ConfigDict(frozen=True)

    run: str
    host: str
    study: str
    baseline: str | None
    started: datetime
    host_class: str
    tainted: bool | None = None
    noise_floor: float | None = None
    versions: Versions = {}
    git_commit: str | None = None
    spec: JsonObject = {}
    error: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What identifies it: run and host."""
        return self.run, self.host


class PairedRound(BaseModel):
    """A variant's round beside the baseline's: a row of the view `paired_rounds`, by each sample's fastest pass."""

    model_config = ConfigDict(frozen=True)

    run: str
    host: str
    round: int
    variant: str
    samples_per_s: float | None
    speed_ratio: float | None
    baseline_self_ratio: float | None
    memory_over_base_mb: float | None
    samples: int | None = None
    prompt_tokens: int | None = None

    def value(self, metric: str) -> float | None:
        """One of its metrics: samples_per_s, speed_ratio or memory_over_base_mb."""
        values = {
            "samples_per_s": self.samples_per_s,
            "speed_ratio": self.speed_ratio,
            "memory_over_base_mb": self.memory_over_base_mb,
        }
        return values[metric]


@dataclass(frozen=True)
class History:
    """A run on a host (`now`), the earlier ones on its class of hosts (`past`, oldest first), and rows of them all.

    What a night measured again belongs to that night: a re-run is not a night of its own.
    """

    now: HostRun
    past: tuple[HostRun, ...]
    rounds: Sequence[PairedRound]
    measurements: Sequence[MeasurementRow]
    verdicts: Sequence[VerdictRow]


def read_history(store: MetricsStore, run: str, host: str, metrics: Sequence[str], nights: int) -> History:
    """All there is to judge these metrics of a run on a host: at most `nights` earlier runs.

    Raises:
        LookupError: the run is not stored of that host.
    """
    with store.connect() as connection:
        found = _host_runs(connection, "run = ? AND host = ?", [run, host])
        if not found:
            raise LookupError(f"run {run!r} is not stored of host {host!r}")
        now = found[0]
        earlier = "study = ? AND started < ? AND run <> ? AND coalesce(host_class, host) = ? AND baseline IS NOT NULL"
        condition = f"{earlier} AND run NOT IN ({_RERUNS})"
        past = _host_runs(connection, condition, [now.study, now.started, run, now.host_class])[-nights:]
        judged = "FROM verdicts WHERE study = ? AND coalesce(host_class, host) = ? AND time < ? ORDER BY time, run"
        verdicts = fetch(connection, VerdictRow, judged, [now.study, now.host_class, now.started])
        runs = [run, *(each.run for each in past)]
        again = [other for row in verdicts for other in row.rerun or ()]
        return History(
            now,
            tuple(past),
            fetch(connection, PairedRound, _ROUNDS, [[*runs, *again]]),
            fetch(connection, MeasurementRow, _MEASUREMENTS, [runs, list(metrics)]),
            verdicts,
        )


def read_rounds(store: MetricsStore, runs: Sequence[str]) -> list[PairedRound]:
    """The paired rounds of some runs."""
    with store.connect() as connection:
        return fetch(connection, PairedRound, _ROUNDS, [list(runs)])


def read_predictions(store: MetricsStore, run: HostRun, variant: str) -> Mapping[tuple[int, str | None], PredictionRow]:
    """A variant's scored completions in a run on a host, by sample and target."""
    with store.connect() as connection:
        rows = fetch(connection, PredictionRow, _PREDICTIONS, [run.run, run.host, variant])
    return {(row.sample, row.target): row for row in rows}


def run_hosts(store: MetricsStore, run: str) -> list[str]:
    """The hosts on which a run has ended."""
    with store.connect() as connection:
        rows = connection.execute("SELECT DISTINCT host FROM runs WHERE run = ? ORDER BY host", [run]).fetchall()
    return [host for (host,) in rows]


def _host_runs(connection: duckdb.DuckDBPyConnection, condition: str, values: list[object]) -> list[HostRun]:
    return fetch(connection, HostRun, _HOST_RUNS.format(condition=condition), values)
