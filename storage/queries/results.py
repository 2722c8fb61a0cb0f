"""The result table: what one run measured, variant by variant, with the published figures beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from slimline.storage.metrics.connection import fetch
from slimline.storage.metrics.metric import TABLE_METRICS
from slimline.storage.metrics.names import Name
from slimline.storage.metrics.rows import PublishedRow
from slimline.storage.metrics.store import MetricsStore

if TYPE_CHECKING:
    import duckdb

PUBLISHED_METRICS = ("disk_mb", "memory_mb", "samples_per_s", "line_speed_ratio", "es", "em", "params_m")
_NESTED = ("figures", "pair_ratios", "published")
_ORIGIN = {"host", "published_name", "source"}
SHOWN_NAMES = 10
# What a nightly run measured again is a part of that run: it is shown when it is asked for, and is not the newest run.
_RERUN = "run IN (SELECT unnest(rerun) FROM verdicts)"


_RESULTS = """
WITH pairs AS (
    SELECT host, variant, map_from_entries(list({'k': round, 'v': ratio})) AS pair_ratios
    FROM (SELECT host, variant, round, avg(pair_ratio) AS ratio FROM rounds WHERE run = $run GROUP BY ALL)
    WHERE ratio IS NOT NULL GROUP BY ALL
)
SELECT result_figures.*, coalesce(pair_ratios, MAP {}) AS pair_ratios
FROM result_figures LEFT JOIN pairs USING (host, variant)
WHERE run = $run ORDER BY host, first_measured, first_written
"""


class NotMeasuredError(LookupError):
    """The store has no such study or run: the message names what there is."""


@dataclass(frozen=True)
class Figure:
    """A measured value with its 95 % interval; each null where there is none."""

    value: float | None = None
    lo: float | None = None
    hi: float | None = None


NO_FIGURE = Figure()


class PublishedFigures(BaseModel):
    """A published row of a variant, with its figures by metric (`PUBLISHED_METRICS`)."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    host: str | None
    published_name: str | None
    source: str | None
    figures: Mapping[str, float | None]

    def flat(self) -> dict[str, object]:
        """The same as one flat object, for exports."""
        return {"host": self.host, "published_name": self.published_name, "source": self.source, **self.figures}


class ResultRow(BaseModel):
    """A variant's results in one run on one host.

    Figures are in the metrics' units (storage/metrics/metric.py): MB are 10^6 bytes, es, em and their drops percentage
    points, latencies milliseconds. `error` is the reason why a number is missing.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    variant: str
    host: Name
    label: str | None = None
    artifact: str | None = None
    random_weights: bool = False
    error: str | None = None
    study: Name
    run: Name
    started: datetime | None = None
    baseline: str | None = None
    control: str | None = None
    """The variant that drops of what was trained on are measured against; null: the baseline."""
    rounds: int | None = None
    samples: int | None = None
    noise_floor: float | None = None
    tainted: bool | None = None
    figures: Mapping[str, Figure] = {}
    pair_ratios: Mapping[int, float] = {}
    """By round, how many times as fast it was as the baseline's process beside it; of the baseline, its second one."""
    published: tuple[PublishedFigures, ...] = ()

    def figure(self, metric: str) -> Figure:
        """A metric's value and interval; nulls where it was not measured."""
        return self.figures.get(metric, NO_FIGURE)

    def value(self, metric: str) -> float | None:
        """A metric's value."""
        return self.figure(metric).value

    @property
    def is_baseline(self) -> bool:
        """Whether the others are compared with this variant."""
        return self.variant == self.baseline

    @property
    def reference(self) -> str | None:
        """The variant that its quality drops are measured against."""
        trained = bool(self.value("train_tokens"))
        return control_of(self.variant, self.control, trained=trained) or self.baseline

    def flat(self) -> dict[str, object]:
        """As one object, as it is exported: each metric beside its `_lo` and `_hi`, the start as ISO 8601 in UTC."""
        started = self.started.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if self.started else None
        figures: dict[str, object] = {}
        for metric in TABLE_METRICS:
            found = self.figure(metric)
            figures |= {metric: found.value, f"{metric}_lo": found.lo, f"{metric}_hi": found.hi}
        own = {name: getattr(self, name) for name in ResultRow.model_fields if name not in _NESTED}
        return {**own, "started": started, **figures, "published": [each.flat() for each in self.published]}


def control_of(variant: str, control: str | None, *, trained: bool) -> str | None:
    """The control, if drops of a variant's quality are against it: it was trained on; null: against the baseline."""
    return control if trained and variant != control else None


def result_rows(store: MetricsStore, study: str | None = None, run: str | None = None) -> list[ResultRow]:
    """One row per host and variant of the chosen run (by default the newest), in the order they were measured.

    Raises:
        NotMeasuredError: there is no such study or run, or it measured nothing.
    """
    with store.connect(views=["result_figures"]) as connection:
        chosen = _chosen_run(connection, store.url, study, run)
        rows = fetch(connection, ResultRow, _RESULTS, {"run": chosen})
        published = _published(connection)
        if not rows:
            raise NotMeasuredError(_nothing(connection, chosen))
    figures_of = {row.variant: tuple(figures for name, figures in published if name == row.variant) for row in rows}
    return [row.model_copy(update={"published": figures_of[row.variant]}) for row in rows]


def host_rows(
    store: MetricsStore, study: str | None = None, run: str | None = None, host: str | None = None
) -> list[ResultRow]:
    """The `result_rows` of one run on one host: by default the newest that measured something, of a study on its host.

    Raises:
        NotMeasuredError: as `result_rows`; also where several hosts measured the study, or the run, and none is named.
    """
    with store.connect(views=[]) as connection:
        _chosen_run(connection, store.url, study, run)  # names what does not exist
        measured: list[tuple[str, str, str]] = connection.execute(
            "SELECT run, study, host FROM (SELECT DISTINCT run, study, host FROM measurements) "  # noqa: S608 - constants only
            "INNER JOIN (SELECT run, min(started) AS started FROM runs GROUP BY run) USING (run) "
            f"ORDER BY {_RERUN}, started DESC, run DESC, host"
        ).fetchall()
        if study is None and run is None and measured:
            study = measured[0][1]
        on_host = [
            (name, where) for name, its_study, where in measured if study in (None, its_study) and run in (None, name)
        ]
        if not on_host:
            raise NotMeasuredError(_nothing(connection, run or _chosen_run(connection, store.url, study, None)))
    chosen, where = _on_host(on_host, host)
    return [row for row in result_rows(store, run=chosen) if row.host == where]


def _on_host(measured: Sequence[tuple[str, str]], host: str | None) -> tuple[str, str]:
    """The first (run, host) on that host, or on the only one there is."""
    hosts = list(dict.fromkeys(where for _, where in measured))
    if host is None and len(hosts) > 1:
        raise NotMeasuredError(f"several hosts measured it; choose one with --host: {_first(hosts)}")
    if host is not None and host not in hosts:
        raise NotMeasuredError(f"no host {host!r} measured it; there are: {_first(hosts)}")
    return next((run, where) for run, where in measured if host in (None, where))


def _chosen_run(connection: duckdb.DuckDBPyConnection, url: str, study: str | None, run: str | None) -> str:
    runs: list[tuple[str, str]] = connection.execute(
        f"SELECT run, any_value(study) FROM runs GROUP BY run ORDER BY {_RERUN}, min(started) DESC, run DESC"  # noqa: S608 - constants only
    ).fetchall()
    if not runs:
        raise NotMeasuredError(f"no run is stored in {url}; `slimline run` makes one")
    studies = list(dict.fromkeys(name for _, name in runs))
    if study is not None and study not in studies:
        raise NotMeasuredError(f"no study {study!r} in {url}; there are: {_first(studies)}")
    candidates = [name for name, its_study in runs if study in (None, its_study)]
    if run is not None and run not in candidates:
        of_study = f" of study {study!r}" if study is not None else ""
        raise NotMeasuredError(f"no run {run!r}{of_study} in {url}; there are: {_first(candidates)}")
    return candidates[0] if run is None else run


def _first(names: Sequence[str]) -> str:
    more = [f"and {len(names) - SHOWN_NAMES} older"] if len(names) > SHOWN_NAMES else []
    return ", ".join([*names[:SHOWN_NAMES], *more])


def _nothing(connection: duckdb.DuckDBPyConnection, run: str) -> str:
    reasons = connection.execute("SELECT error FROM runs WHERE run = ? AND error IS NOT NULL", [run]).fetchall()
    return f"run {run!r} measured nothing: {'; '.join(reason for (reason,) in reasons) or 'no reason is stored'}"


def _published(connection: duckdb.DuckDBPyConnection) -> list[tuple[str | None, PublishedFigures]]:
    """The published figures with the variant that each reproduces, by host."""
    rows = fetch(connection, PublishedRow, "FROM published ORDER BY host")
    speeds = {(row.host, row.source): row.samples_per_s for row in rows if row.variant == "original"}
    found = []
    for row in rows:
        base = speeds.get((row.host, row.source))
        ratio = row.samples_per_s / base if row.samples_per_s is not None and base else None
        figures = {name: ratio if name == "line_speed_ratio" else getattr(row, name) for name in PUBLISHED_METRICS}
        found.append((row.variant, PublishedFigures(**row.model_dump(include=_ORIGIN), figures=figures)))
    return found
