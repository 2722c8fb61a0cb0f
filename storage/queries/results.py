"""The result table: what one run measured, variant by variant, with the published figures beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from slimline.storage.metrics.store import MetricsStore

if TYPE_CHECKING:
    import duckdb

Row = dict[str, object]

METRICS = (
    "disk_mb",
    "disk_gzip_mb",
    "memory_mb",
    "memory_over_base_mb",
    "samples_per_s",
    "speed_ratio",
    "es",
    "em",
    "params_m",
    "params_nonzero_m",
    "latency_p50_ms",
    "latency_p95_ms",
    "latency_p99_ms",
    "prefill_tokens_per_s",
    "decode_tokens_per_s",
    "es_drop",
    "em_drop",
    "em_p_value",
    "energy_j_per_sample",
    "int8_matmuls",
    "matmuls",
    "greedy_agreement",
    "prefill_limit_share",
    "decode_limit_share",
)
HEAD = (
    "variant",
    "host",
    "label",
    "artifact",
    "random_weights",
    "error",
    "study",
    "run",
    "started",
    "baseline",
    "rounds",
    "samples",
    "noise_floor",
    "tainted",
)
FIGURES = ("disk_mb", "memory_mb", "samples_per_s", "speed_ratio", "es", "em", "params_m")
SHOWN_NAMES = 10
# What a nightly run measured again is a part of that run: it is shown when it is asked for, and is not the newest run.
_RERUN = "run IN (SELECT unnest(rerun) FROM verdicts)"


class NotMeasured(LookupError):  # noqa: N818 - read as a sentence
    """The store has no such study or run: the message names what there is."""


def result_rows(store: MetricsStore, study: str | None = None, run: str | None = None) -> list[Row]:
    """One dict per host and variant of the chosen run (by default the newest), in the order they were measured.

    Keys: variant, host, label, artifact (digest), random_weights, error (reason or None), each metric (float or None)
    with `_lo` and `_hi` (95 % interval), study, run, started (ISO 8601, UTC), baseline, rounds, samples, noise_floor,
    tainted, and published: a list of dicts, one per published row of that variant, with host, published_name, source
    and FIGURES.
    Units: MB are 10^6 bytes, es, em and their drops percentage points, latencies milliseconds. Raises NotMeasured.
    """
    with store.connect() as connection:
        chosen = _chosen_run(connection, store.url, study, run)
        columns = [*HEAD, *(name for metric in METRICS for name in (metric, f"{metric}_lo", f"{metric}_hi"))]
        values = ", ".join("strftime(started, '%Y-%m-%dT%H:%M:%SZ')" if name == "started" else name for name in columns)
        rows = connection.execute(
            f"SELECT {values} FROM (SELECT * REPLACE (started AT TIME ZONE 'UTC' AS started) FROM result_table) "  # noqa: S608 - constants only
            "WHERE run = ? ORDER BY host, first_measured, first_written",
            [chosen],
        ).fetchall()
        published = _published(connection)
        if not rows:
            raise NotMeasured(_nothing(connection, chosen))
    found = [dict(zip(columns, row, strict=True)) for row in rows]
    return [row | {"published": [figures for name, figures in published if name == row["variant"]]} for row in found]


def host_rows(
    store: MetricsStore, study: str | None = None, run: str | None = None, host: str | None = None
) -> list[Row]:
    """The `result_rows` of one run on one host: by default the newest that measured something, of a study on its host.

    Raises NotMeasured, also where several hosts measured the study, or the run, and none is named.
    """
    with store.connect() as connection:
        _chosen_run(connection, store.url, study, run)  # names what does not exist
        measured: list[tuple[str, str, str]] = connection.execute(
            "SELECT run, study, host FROM result_table WHERE started IS NOT NULL "  # noqa: S608 - constants only
            f"GROUP BY run, study, host ORDER BY {_RERUN}, max(started) DESC, run DESC, host"
        ).fetchall()
        if study is None and run is None and measured:
            study = measured[0][1]
        on_host = [
            (name, where) for name, its_study, where in measured if study in (None, its_study) and run in (None, name)
        ]
        if not on_host:
            raise NotMeasured(_nothing(connection, run or _chosen_run(connection, store.url, study, None)))
    chosen, where = _on_host(on_host, host)
    return [row for row in result_rows(store, run=chosen) if row["host"] == where]


def _on_host(measured: Sequence[tuple[str, str]], host: str | None) -> tuple[str, str]:
    """The first (run, host) on that host, or on the only one there is."""
    hosts = list(dict.fromkeys(where for _, where in measured))
    if host is None and len(hosts) > 1:
        raise NotMeasured(f"several hosts measured it; choose one with --host: {_first(hosts)}")
    if host is not None and host not in hosts:
        raise NotMeasured(f"no host {host!r} measured it; there are: {_first(hosts)}")
    return next((run, where) for run, where in measured if host in (None, where))


def _chosen_run(connection: duckdb.DuckDBPyConnection, url: str, study: str | None, run: str | None) -> str:
    runs: list[tuple[str, str]] = connection.execute(
        f"SELECT run, any_value(study) FROM runs GROUP BY run ORDER BY {_RERUN}, min(started) DESC, run DESC"  # noqa: S608 - constants only
    ).fetchall()
    if not runs:
        raise NotMeasured(f"no run is stored in {url}; `slimline run` makes one")
    studies = list(dict.fromkeys(name for _, name in runs))
    if study is not None and study not in studies:
        raise NotMeasured(f"no study {study!r} in {url}; there are: {_first(studies)}")
    candidates = [name for name, its_study in runs if study in (None, its_study)]
    if run is not None and run not in candidates:
        of_study = f" of study {study!r}" if study is not None else ""
        raise NotMeasured(f"no run {run!r}{of_study} in {url}; there are: {_first(candidates)}")
    return candidates[0] if run is None else run


def _first(names: Sequence[str]) -> str:
    more = [f"and {len(names) - SHOWN_NAMES} older"] if len(names) > SHOWN_NAMES else []
    return ", ".join([*names[:SHOWN_NAMES], *more])


def _nothing(connection: duckdb.DuckDBPyConnection, run: str) -> str:
    reasons = connection.execute("SELECT error FROM runs WHERE run = ? AND error IS NOT NULL", [run]).fetchall()
    return f"run {run!r} measured nothing: {'; '.join(reason for (reason,) in reasons) or 'no reason is stored'}"


def _published(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, Row]]:
    columns = ["variant", "host", "published_name", "source", *FIGURES]
    values = ", ".join(
        "theirs.samples_per_s / base.samples_per_s" if name == "speed_ratio" else f"theirs.{name}" for name in columns
    )
    rows = connection.execute(
        f"SELECT {values} FROM published AS theirs LEFT JOIN published AS base "  # noqa: S608 - constants only
        "ON base.host = theirs.host AND base.source = theirs.source AND base.variant = 'original' ORDER BY theirs.host"
    ).fetchall()
    return [(row[0], dict(zip(columns[1:], row[1:], strict=True))) for row in rows]
