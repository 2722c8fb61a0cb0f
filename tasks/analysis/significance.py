"""The best figure of a column of a result table, and which figures surely differ from the baseline's."""

from __future__ import annotations

from collections.abc import Sequence

from slimline.storage.metrics.metric import METRICS
from slimline.storage.queries.results import ResultRow

QUALITY = ("es", "em")
SURE_BELOW = 0.05  # of a p-value
MEANING = (
    "bold: the best of its column; *: surely differs from the baseline (times as fast: p below 0.05 by Student's test "
    "over pairs of processes, corrected for the number of variants; EM: p below 0.05 by McNemar's test; ES: the 95 % "
    "interval of the paired drop leaves out 0)"
)
NOT_ENOUGH = (
    "not enough to tell: one pair of processes gives no interval of a speed; measure 3 rounds or more (--rounds 3)"
)
_P_VALUE = {"speed_ratio": "speed_p_value", "em": "em_p_value"}
_OF_PROCESSES = (
    *("samples_per_s", "speed_ratio", "line_speed_ratio", "first_token_p50_ms", "prefill_tokens_per_s"),
    *("decode_tokens_per_s", "latency_p50_ms", "latency_p95_ms", "latency_p99_ms"),
)
"""Metrics of which one process alone says nothing sure."""


def has_one_pair(rows: Sequence[ResultRow]) -> bool:
    """Whether a variant's speed ratio has no interval, because one pair of processes measured it."""
    return any(_lacks_interval(row, "speed_ratio") for row in rows)


def _lacks_interval(row: ResultRow, metric: str) -> bool:
    figure = row.figure(metric)
    is_one = row.is_baseline and metric in ("speed_ratio", "line_speed_ratio")  # by definition
    return figure.value is not None and figure.lo is None and not is_one


def best_value(rows: Sequence[ResultRow], metric: str) -> float | None:
    """The best figure of a column; null where all are the same, not enough is known, or neither end is better."""
    counted = [row for row in rows if not row.error and not (metric in QUALITY and row.random_weights)]
    figures = {value for row in counted if (value := row.value(metric)) is not None}
    more_is_better = METRICS[metric].more_is_better
    if more_is_better is None or len(figures) < 2:
        return None
    if metric in _OF_PROCESSES and any(_lacks_interval(row, metric) for row in counted):
        return None
    return max(figures) if more_is_better else min(figures)


def surely_differs(row: ResultRow, metric: str) -> bool:
    """Whether a variant's speed, ES or EM surely differs from its baseline's; see MEANING."""
    if row.is_baseline:
        return False
    if metric in _P_VALUE:
        p_value = row.value(_P_VALUE[metric])
        return p_value is not None and p_value < SURE_BELOW
    drop = row.figure("es_drop")
    return metric == "es" and drop.lo is not None and drop.hi is not None and not drop.lo <= 0 <= drop.hi
