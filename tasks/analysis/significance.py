"""The best figure of a column of a result table, and which figures surely differ from the baseline's."""

from __future__ import annotations

from collections.abc import Sequence

from slimline.storage.metrics.metric import METRICS
from slimline.storage.queries.results import ResultRow

QUALITY = ("es", "em")
SURE_BELOW = 0.05  # of McNemar's p value
MEANING = (
    "bold: the best of its column; *: surely differs from the baseline (the 95 % interval of the paired speed ratio "
    "leaves out 1, that of the paired ES drop 0, or McNemar's p for EM is below 0.05)"
)
_SAME = {"speed_ratio": ("speed_ratio", 1.0), "es": ("es_drop", 0.0)}
"""By metric, the figure that compares a variant with its baseline, and its value where they are the same."""


def best_value(rows: Sequence[ResultRow], metric: str) -> float | None:
    """The best figure of a column; null where all are the same, or where neither more nor less is better."""
    counted = [row for row in rows if not row.error and not (metric in QUALITY and row.random_weights)]
    figures = {value for row in counted if (value := row.value(metric)) is not None}
    more_is_better = METRICS[metric].more_is_better
    if more_is_better is None or len(figures) < 2:
        return None
    return max(figures) if more_is_better else min(figures)


def surely_differs(row: ResultRow, metric: str) -> bool:
    """Whether a variant's speed, ES or EM surely differs from its baseline's; see MEANING."""
    if row.is_baseline:
        return False
    if metric == "em":
        p_value = row.value("em_p_value")
        return p_value is not None and p_value < SURE_BELOW
    if metric not in _SAME:
        return False
    paired, same = _SAME[metric]
    figure = row.figure(paired)
    return figure.lo is not None and figure.hi is not None and not figure.lo <= same <= figure.hi
