"""The judgement of what has no noise: size on disk, and quality sample by sample. It needs no second look."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from slimline.storage.metrics.rows import PredictionRow, VerdictRow
from slimline.storage.queries.history import History, HostRun
from slimline.tasks.analysis.statistics import mcnemar, paired_difference
from slimline.tasks.regression.detection import first_changed_night
from slimline.tasks.regression.verdict import change_starts, change_text, with_change

ReadPredictions = Callable[[HostRun, str], Mapping[tuple[int, str | None], PredictionRow]]
"""Reads a variant's completions in a run, by sample and target."""

RELEVANT_SIZE = 0.01
RELEVANT_POINTS = {"es": 0.5, "em": 1.0}
SIGNIFICANT = 0.05


def present_level(history: History, row: VerdictRow, past: Sequence[HostRun]) -> int:
    """Index of the first night at the present level: the newest confirmed change, else the first night of all."""
    starts = change_starts(history, row)
    return max((index for index, each in enumerate(past) if each.run in starts), default=0)


def judge_size(row: VerdictRow, past: Sequence[HostRun], values: Sequence[float], since: int) -> VerdictRow:
    """The verdict on a size; `values` are those of the nights `past`, `since` the first at the present level."""
    assert row.value is not None
    reference = float(np.median(values[since:]))
    ratio = row.value / reference
    row = row.replace(reference=reference, ratio=ratio, band=RELEVANT_SIZE, history=len(past) - since)
    if abs(ratio - 1) <= RELEVANT_SIZE:
        return row.replace(verdict="ok", reason="the same size")
    first = first_changed_night(values, since, reference, row.value or 0.0)
    return with_change(row, past, first, worse=ratio > 1, reason=f"{change_text(row)}; sizes are exact")


def judge_quality(
    row: VerdictRow,
    now: HostRun,
    past: Sequence[HostRun],
    values: Sequence[float],
    since: int,
    predictions: ReadPredictions,
) -> VerdictRow:
    """Sample by sample against the first night at the present level: so a slow decline adds up until it shows."""
    assert row.value is not None
    before, after = predictions(past[since], row.variant), predictions(now, row.variant)
    is_scored = all(None not in (row.es, row.em) for row in (*before.values(), *after.values()))
    if not after or before.keys() != after.keys() or not is_scored:
        reason = f"its samples are not those of {past[since].run}, or not stored"
        return row.replace(verdict="not-comparable", reason=reason, history=0)
    ratio = row.value / values[since] if values[since] else None
    row = row.replace(reference=values[since], history=len(past) - since, ratio=ratio)
    ours, theirs = ([_score(each[key], row.metric) for key in sorted(before, key=str)] for each in (after, before))
    if ours == theirs:
        return row.replace(verdict="ok", reason=f"the same on all {len(ours)} samples")
    points, significant = _test(row.metric, ours, theirs)
    change = f"{points:+.2f} points of {row.metric} over {len(ours)} samples"
    if abs(points) < RELEVANT_POINTS[row.metric]:
        return row.replace(verdict="ok", reason=f"{change}, less than {RELEVANT_POINTS[row.metric]}")
    if not significant:
        return row.replace(verdict="suspicious-unconfirmed", reason=f"{change}: they may be chance")
    first = first_changed_night(values, since, values[since], row.value or 0.0)
    return with_change(row, past, first, worse=points < 0, reason=f"{change}; completions are exact")


def _score(row: PredictionRow, metric: str) -> float:
    value = row.em if metric == "em" else row.es
    assert value is not None  # judge_quality compares scored samples only
    return float(value)


def _test(metric: str, ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, bool]:
    """The change in points, and whether other samples would likely show it too: bootstrap for ES, McNemar for EM."""
    if metric == "em":
        points = 100 * (float(np.mean(ours)) - float(np.mean(theirs)))
        return points, mcnemar([value > 0 for value in ours], [value > 0 for value in theirs]) < SIGNIFICANT
    found = paired_difference(ours, theirs)
    return found.value, found.lo is not None and found.hi is not None and not found.lo <= 0 <= found.hi
