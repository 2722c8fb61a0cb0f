"""From a run and its history to verdicts: which series there are, what is suspicious, and what a re-run says of it.

A series is a variant's metric on one class of hosts. Speed is judged as the ratio to the baseline of the same round,
the baseline's own as it is; memory by its rounds; what is exact (size, quality) needs no second look.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from slimline.storage.metrics.schema import VERDICTS
from slimline.storage.queries.history import Conducted, History, Row
from slimline.tasks.analysis.statistics import mcnemar, paired_difference
from slimline.tasks.regression.comparability import differences, other_prompts, prompts_of, suspects
from slimline.tasks.regression.detection import (
    LOOKS,
    NIGHTS_NEEDED,
    Expected,
    Night,
    Rule,
    Shift,
    changed_at,
    decided,
    expected,
    shift,
    suspected,
    tolerance,
)

Predictions = Callable[[Conducted, str], Mapping[tuple[int, str], Row]]

TIMED = {
    "speed_ratio": Rule(relevant=0.05, prior=0.02),
    "samples_per_s": Rule(relevant=0.10, prior=0.10, lasting=3),
    "memory_over_base_mb": Rule(relevant=0.05, prior=0.01),
}
"""Metrics with noise. The baseline's absolute speed follows the machine's clock and neighbours: it may vary more, and
one night cannot tell a busy machine from slower software, nor can a re-run in the same hour."""
RELEVANT_SIZE = 0.01
RELEVANT_POINTS = {"es": 0.5, "em": 1.0}
METRICS = (*TIMED, "disk_mb", *RELEVANT_POINTS)
SIGNIFICANT = 0.05
STEADY = 0.2
"""Rounds in which the baseline differs from itself by more (relative) are set aside, while enough others are left."""
_FEWEST_STEADY = 2
_LOWER_IS_BETTER = ("memory_over_base_mb", "disk_mb")


@dataclass(frozen=True)
class Series:
    """A noisy series up to tonight, as logs that are worse when lower, what tonight was expected to be, and why it is
    suspicious.
    """

    rule: Rule
    sign: int
    past: tuple[Conducted, ...]
    nights: tuple[Night, ...]
    tonight: Night
    expectation: Expected
    why: str = ""


@dataclass(frozen=True)
class Judgement:
    """A row of `verdicts`; with its series while a re-run has to decide it."""

    row: Row
    pending: Series | None = None


def judge(history: History, predictions: Predictions) -> list[Judgement]:
    """A verdict on every series of a run on a host; suspicious ones are pending. `predictions` reads a run's."""
    variants = list(dict.fromkeys(row["variant"] for row in history.measured if row["run"] == history.now.run))
    judgements = []
    for variant in variants:
        for metric in METRICS:
            found = _judged(history, variant, metric, predictions)
            judgements += [found] if found else []
    return judgements


def settle(judgement: Judgement, reruns: Sequence[str], rounds: Sequence[Row]) -> Judgement:
    """What a pending judgement becomes with all rounds of its re-runs so far; still pending where they cannot tell."""
    series, row = judgement.pending, judgement.row
    if series is None:
        return judgement
    ours = [each for each in rounds if each["host"] == row["host"] and each["variant"] == row["variant"]]
    values = _logs(ours, row["metric"], series.sign, fewest=LOOKS[0])
    base = {**row, "rerun": list(reruns)}
    if not values:
        return Judgement({**base, "reason": f"{series.why}; it could not be measured again"})
    found = _with_figures(base, series, shift(values, series.expectation))
    decision = decided(values, series.expectation, series.rule)
    if decision == "same":
        return Judgement({**found, "verdict": "ok", "reason": f"not confirmed by {len(values)} new rounds"})
    if decision == "undecided":
        doubt = "which could not tell: the host is too noisy"
    elif abs(math.log(found["ratio"])) <= (floor := _noise_floor(ours)):
        doubt = f"in which the baseline differs from itself by {100 * math.expm1(floor):.1f} %"
    else:
        return Judgement(_confirmed(found, series, len(values), worse=decision == "worse"))
    found["reason"] = f"{series.why}; measured again in {len(ours)} rounds, {doubt}"
    return Judgement(found, series if len(ours) < LOOKS[-1] else None)


def _noise_floor(rounds: Sequence[Row]) -> float:
    """How far the baseline's two processes differ, as a log, in the median round: a shift's interval has the noise."""
    ratios = [math.log(row["baseline_self_ratio"]) for row in rounds if row["baseline_self_ratio"]]
    return abs(float(np.median(ratios))) if ratios else math.inf


def _judged(history: History, variant: str, metric: str, predictions: Predictions) -> Judgement | None:
    now = history.now
    if metric == ("speed_ratio" if variant == now.baseline else "samples_per_s"):
        return None  # the baseline's ratio is 1, and others' absolute speed says nothing that their ratio does not
    measured = _measured(history, variant, metric)
    if now.key not in measured:
        return None
    tonight = measured[now.key]
    row = _row(now, variant, metric, tonight["metric_version"])
    if tonight["value"] is None:
        return Judgement({**row, "verdict": "failed", "reason": str(tonight["error"])})
    past, why_not = _comparable(history, variant, metric, measured)
    if not past:
        verdict = "not-comparable" if why_not else "new"
        reason = why_not or f"{_nights(NIGHTS_NEEDED)} more are needed"
        return Judgement({**row, "value": tonight["value"], "verdict": verdict, "reason": reason, "history": 0})
    if metric in TIMED:
        return _judged_timed(history, row, past)
    values = [float(measured[each.key]["value"]) for each in past]
    since = _since_last_change(history, row, past)
    if metric == "disk_mb":
        return Judgement(_judged_size({**row, "value": tonight["value"]}, past, values, since, now))
    return Judgement(_judged_quality({**row, "value": tonight["value"]}, past, values, since, now, predictions))


def _row(now: Conducted, variant: str, metric: str, version: int | None) -> Row:
    return {
        **dict.fromkeys(column.name for column in VERDICTS),
        **{"run": now.run, "study": now.study, "host": now.host, "host_class": now.host_class, "time": now.started},
        **{"variant": variant, "metric": metric, "metric_version": version},
    }


def _measured(history: History, variant: str, metric: str) -> dict[tuple[str, str], Row]:
    return {
        (row["run"], row["host"]): row
        for row in history.measured
        if row["variant"] == variant and row["metric"] == metric
    }


def _comparable(
    history: History, variant: str, metric: str, measured: Mapping[tuple[str, str], Row]
) -> tuple[list[Conducted], str | None]:
    """The earlier runs that tonight compares with, and why the newest of the others does not."""
    now, why_not = history.now, None
    prompts = _prompts(history)
    comparable = []
    for then in history.past:
        row = measured.get(then.key)
        if row is None or row["value"] is None:
            continue
        if changed := differences(now, then, variant):
            why_not = f"{', '.join(changed)} changed after {then.run}"
        elif row["metric_version"] != measured[now.key]["metric_version"]:
            why_not = f"the definition of {metric} changed after {then.run}"
        elif metric in TIMED and other_prompts(prompts[now.key], prompts[then.key]):
            why_not = f"the prompts that are timed changed after {then.run}"
        else:
            comparable.append(then)
    return comparable, why_not


def _prompts(history: History) -> dict[tuple[str, str], tuple[int | None, ...]]:
    of_baseline = defaultdict(list)
    for row in history.rounds:
        if row["variant"] == history.now.baseline:
            of_baseline[row["run"], row["host"]].append(row)
    return {each.key: prompts_of(of_baseline[each.key]) for each in (*history.past, history.now)}


# ------------------------------------------------------------------------------------------------------- with noise


def _judged_timed(history: History, row: Row, past: Sequence[Conducted]) -> Judgement | None:
    now, metric = history.now, row["metric"]
    rule, sign = TIMED[metric], -1 if metric in _LOWER_IS_BETTER else 1
    nights = _nights_of(history, row, [*past, now], sign)
    tonight = nights.pop(now.key, None)
    if tonight is None:
        return None
    past = [each for each in past if each.key in nights]
    series = [nights[each.key] for each in past]
    row = {**row, "value": math.exp(sign * tonight.level), "history": len(series)}
    expectation = expected(series, rule, _starts(history, row))
    if expectation is None:
        more = NIGHTS_NEEDED - len(series)
        return Judgement({**row, "verdict": "new", "reason": f"{_nights(more)} more are needed"})
    row["history"] = expectation.nights
    whole = Series(rule, sign, tuple(past), tuple(series), tonight, expectation)
    found = _with_figures(row, whole, shift(tonight.values, expectation))
    if not suspected(tonight, expectation, rule):
        return Judgement({**found, "verdict": "ok", "reason": "within the noise band"})
    reason = f"{_change(found)}, beyond the band of {100 * found['band']:.1f} %{_doubt(now)}"
    lasted = len(series) - _first_changed(found, whole) + 1
    if lasted < rule.lasting:  # too early for an alarm, whatever a re-run said
        reason = f"{reason}; seen for {_nights(lasted)} of {rule.lasting}"
    pending = replace(whole, why=reason) if lasted >= rule.lasting else None
    return Judgement({**found, "verdict": "suspicious-unconfirmed", "reason": reason}, pending)


def _nights_of(history: History, row: Row, conducted: Sequence[Conducted], sign: int) -> dict[tuple[str, str], Night]:
    """A series' nights by run and host; what was measured again in a night belongs to it."""
    again: dict[str, str] = {}
    for verdict in history.verdicts:
        if (verdict["variant"], verdict["metric"]) == (row["variant"], row["metric"]):
            again |= dict.fromkeys(verdict["rerun"] or (), verdict["run"])
    by_night = defaultdict(list)
    for each in history.rounds:
        if each["variant"] == row["variant"]:
            by_night[again.get(each["run"], each["run"]), each["host"]].append(each)
    values = {each.key: _logs(by_night[each.key], row["metric"], sign) for each in conducted}
    return {key: Night(key[0], found) for key, found in values.items() if found}


def _logs(rounds: Sequence[Row], metric: str, sign: int, fewest: int = _FEWEST_STEADY) -> tuple[float, ...]:
    """A value a round; without the rounds in which the baseline disagrees with itself, if enough are left."""
    measured = [row for row in rounds if row[metric] is not None and row[metric] > 0]
    steady = [row for row in measured if abs(math.log(row["baseline_self_ratio"] or 1.0)) <= STEADY]
    kept = steady if len(steady) >= fewest else measured
    return tuple(sign * math.log(row[metric]) for row in kept)


def _starts(history: History, row: Row) -> set[str]:
    """The runs at which confirmed changes of a series began."""
    series = ("variant", "metric", "metric_version")
    return {
        each["change_point"]
        for each in history.verdicts
        if each["change_point"] and all(each[name] == row[name] for name in series)
    }


def _with_figures(row: Row, series: Series, found: Shift) -> Row:
    """The row with value, reference and their ratio, in the metric's own direction; infinite ends are left out."""
    bounds = [math.exp(series.sign * end) if math.isfinite(end) else None for end in (found.lo, found.hi)]
    lo, hi = bounds if series.sign > 0 else bounds[::-1]
    reference, ratio = math.exp(series.sign * series.expectation.level), math.exp(series.sign * found.value)
    band = 1 - math.exp(-tolerance(len(series.tonight.values), series.expectation, series.rule))
    figures = {"value": reference * ratio, "reference": reference, "ratio": ratio, "lo": lo, "hi": hi, "band": band}
    return {**row, **figures}


def _confirmed(row: Row, series: Series, rounds: int, *, worse: bool) -> Row:
    first = _first_changed(row, series)
    reason = f"{_change(row)}, confirmed by {rounds} new rounds"
    return _changed(row, series.past, first, worse=worse) | {"reason": reason}


def _first_changed(row: Row, series: Series) -> int:
    level = series.expectation.level
    tonight = level + series.sign * math.log(row["ratio"])
    return changed_at([night.level for night in series.nights], series.expectation.start, level, tonight)


def _changed(row: Row, past: Sequence[Conducted], first: int, *, worse: bool) -> Row:
    """The row as a regression or improvement that began with the `first` of the nights, or tonight."""
    at = past[first] if first < len(past) else None
    return {
        **row,
        "verdict": "regression" if worse else "improvement",
        "change_point": at.run if at else row["run"],
        "change_time": at.started if at else row["time"],
    }


def _change(row: Row) -> str:
    return f"{100 * (row['ratio'] - 1):+.1f} % of {row['metric']} against {_nights(row['history'])}"


def _doubt(now: Conducted) -> str:
    if not now.tainted:
        return ""
    noise = "unknown" if now.noise_floor is None else f"{100 * now.noise_floor:.1f} %"
    return f"; TAINTED: the noise floor of the run is {noise}"


def _nights(count: int) -> str:
    return f"{count} night" + ("" if count == 1 else "s")


# ------------------------------------------------------------------------------------------------------------ exact


def _since_last_change(history: History, row: Row, past: Sequence[Conducted]) -> int:
    """Index of the first night at the present level: the newest confirmed change, else the first night of all."""
    starts = _starts(history, row)
    return max((index for index, each in enumerate(past) if each.run in starts), default=0)


def _judged_size(row: Row, past: Sequence[Conducted], values: Sequence[float], since: int, now: Conducted) -> Row:
    reference = float(np.median(values[since:]))
    ratio = row["value"] / reference
    row = {**row, "reference": reference, "ratio": ratio, "band": RELEVANT_SIZE, "history": len(past) - since}
    if abs(ratio - 1) <= RELEVANT_SIZE:
        return {**row, "verdict": "ok", "reason": "the same size"}
    first = changed_at(values, since, reference, row["value"])
    return _changed(row, past, first, worse=ratio > 1) | {"reason": f"{_change(row)}; sizes are exact"}


def _judged_quality(
    row: Row, past: Sequence[Conducted], values: Sequence[float], since: int, now: Conducted, predictions: Predictions
) -> Row:
    """Sample by sample against the first night at the present level: so a slow decline adds up until it shows."""
    metric = row["metric"]
    before, after = predictions(past[since], row["variant"]), predictions(now, row["variant"])
    if not after or before.keys() != after.keys():
        reason = f"its samples are not those of {past[since].run}, or not stored"
        return {**row, "verdict": "not-comparable", "reason": reason, "history": 0}
    samples = sorted(before)
    ours, theirs = ([float(each[key][metric]) for key in samples] for each in (after, before))
    row = {**row, "reference": values[since], "history": len(past) - since}
    row["ratio"] = row["value"] / values[since] if values[since] else None
    if ours == theirs:
        return {**row, "verdict": "ok", "reason": f"the same on all {len(samples)} samples"}
    points, significant = _tested(metric, ours, theirs)
    change = f"{points:+.2f} points of {metric} over {len(samples)} samples"
    if abs(points) < RELEVANT_POINTS[metric]:
        return {**row, "verdict": "ok", "reason": f"{change}, less than {RELEVANT_POINTS[metric]}"}
    if not significant:
        return {**row, "verdict": "suspicious-unconfirmed", "reason": f"{change}: they may be chance"}
    first = changed_at(values, since, values[since], row["value"])
    return _changed(row, past, first, worse=points < 0) | {"reason": f"{change}; completions are exact"}


def _tested(metric: str, ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, bool]:
    """The change in points, and whether other samples would likely show it too: bootstrap for ES, McNemar for EM."""
    if metric == "em":
        points = 100 * (float(np.mean(ours)) - float(np.mean(theirs)))
        return points, mcnemar([value > 0 for value in ours], [value > 0 for value in theirs]) < SIGNIFICANT
    found = paired_difference(ours, theirs)
    return found.value, found.lo is not None and found.hi is not None and not found.lo <= 0 <= found.hi


def with_suspects(row: Row, history: History) -> Row:
    """The row of a confirmed change, with what differs in software between the last run before it and its first."""
    if row["change_point"] is None:
        return row
    before = [each for each in history.past if each.started < row["change_time"]]
    after = next((each for each in history.past if each.run == row["change_point"]), history.now)
    return {**row, "suspects": suspects(before[-1], after) if before else []}


def undecided(judgements: Sequence[Judgement]) -> list[str]:
    """The variants that have to be measured again."""
    return sorted({each.row["variant"] for each in judgements if each.pending})


def rows_of(judgements: Sequence[Judgement], history: History) -> list[dict[str, Any]]:
    """Rows of `verdicts`."""
    return [with_suspects(each.row, history) for each in judgements]
