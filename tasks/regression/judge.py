"""From a run and its history to verdicts: which series there are, and how each compares with the nights before.

A series is a variant's metric on one class of hosts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from slimline.storage.metrics.rows import MeasurementRow, VerdictRow
from slimline.storage.queries.history import History, HostRun
from slimline.storage.text import counted
from slimline.tasks.regression.comparability import Prompts, differences, other_prompts, timed_prompts
from slimline.tasks.regression.detection import NIGHTS_NEEDED
from slimline.tasks.regression.exact import (
    RELEVANT_POINTS,
    ReadPredictions,
    judge_quality,
    judge_size,
    present_level,
)
from slimline.tasks.regression.noisy_metrics import TIMED, Judgement, judge_timed
from slimline.tasks.regression.verdict import new_verdict, with_suspects

JUDGED_METRICS = (*TIMED, "disk_mb", *RELEVANT_POINTS)

_Measurements = Mapping[tuple[str, str], MeasurementRow]


def judge(history: History, predictions: ReadPredictions) -> list[Judgement]:
    """A verdict on every series of a run on a host; suspicious ones are pending. `predictions` reads a run's."""
    variants = list(dict.fromkeys(row.variant for row in history.measurements if row.run == history.now.run))
    judgements = []
    for variant in variants:
        for metric in JUDGED_METRICS:
            found = _judge_series(history, variant, metric, predictions)
            judgements += [found] if found else []
    return judgements


def verdict_rows(judgements: Sequence[Judgement], history: History) -> list[VerdictRow]:
    """Rows of `verdicts`."""
    return [with_suspects(each.row, history) for each in judgements]


def _judge_series(history: History, variant: str, metric: str, predictions: ReadPredictions) -> Judgement | None:
    now = history.now
    if metric == ("speed_ratio" if variant == now.baseline else "samples_per_s"):
        return None  # the baseline's ratio is 1, and others' absolute speed says nothing that their ratio does not
    measurements = _by_run(history, variant, metric)
    if now.key not in measurements:
        return None
    tonight = measurements[now.key]
    row = new_verdict(now, variant, metric, tonight.metric_version)
    if tonight.value is None:
        return Judgement(row.replace(verdict="failed", reason=str(tonight.error)))
    past, why_not = _comparable_runs(history, variant, metric, measurements)
    if not past:
        reason = why_not or f"{counted(NIGHTS_NEEDED, 'night')} more are needed"
        verdict = "not-comparable" if why_not else "new"
        return Judgement(row.replace(value=tonight.value, verdict=verdict, reason=reason, history=0))
    if metric in TIMED:
        return judge_timed(history, row, past)
    row = row.replace(value=tonight.value)
    values = [value for each in past if (value := measurements[each.key].value) is not None]
    since = present_level(history, row, past)
    if metric == "disk_mb":
        return Judgement(judge_size(row, past, values, since))
    return Judgement(judge_quality(row, now, past, values, since, predictions))


def _by_run(history: History, variant: str, metric: str) -> _Measurements:
    return {(row.run, row.host): row for row in history.measurements if (row.variant, row.metric) == (variant, metric)}


def _comparable_runs(
    history: History, variant: str, metric: str, measurements: _Measurements
) -> tuple[list[HostRun], str | None]:
    """The earlier runs that tonight compares with, and why the newest of the others does not."""
    now, why_not = history.now, None
    prompts = _prompts_by_run(history)
    comparable = []
    for then in history.past:
        row = measurements.get(then.key)
        if row is None or row.value is None:
            continue
        if changed := differences(now, then, variant):
            why_not = f"{', '.join(changed)} changed after {then.run}"
        elif row.metric_version != measurements[now.key].metric_version:
            why_not = f"the definition of {metric} changed after {then.run}"
        elif metric in TIMED and other_prompts(prompts[now.key], prompts[then.key]):
            why_not = f"the prompts that are timed changed after {then.run}"
        else:
            comparable.append(then)
    return comparable, why_not


def _prompts_by_run(history: History) -> dict[tuple[str, str], Prompts]:
    of_baseline = defaultdict(list)
    for row in history.rounds:
        if row.variant == history.now.baseline:
            of_baseline[row.run, row.host].append(row)
    return {each.key: timed_prompts(of_baseline[each.key]) for each in (*history.past, history.now)}
