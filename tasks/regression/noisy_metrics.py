"""The judgement of metrics with noise: speed and memory, by their rounds, and by those of a re-run where it matters.

Speed is judged as the ratio to the baseline of the same round, the baseline's own as it is.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from slimline.storage.metrics.rows import VerdictRow
from slimline.storage.queries.history import History, HostRun, PairedRound
from slimline.storage.text import counted
from slimline.tasks.regression.detection import (
    LASTING_IMPROVEMENT,
    LOOKS,
    NIGHTS_NEEDED,
    Expectation,
    Night,
    Rule,
    Shift,
    decide,
    expect_night,
    first_changed_night,
    is_suspicious,
    shift,
    tolerance,
)
from slimline.tasks.regression.verdict import change_starts, change_text, with_change

TIMED = {
    "speed_ratio": Rule(relevant=0.05, prior=0.02),
    "samples_per_s": Rule(relevant=0.10, prior=0.10, lasting=3),
    "memory_over_base_mb": Rule(relevant=0.05, prior=0.01),
}
"""Metrics with noise. The baseline's absolute speed follows the machine's clock and neighbours: it may vary more, and
one night cannot tell a busy machine from slower software, nor can a re-run in the same hour."""
STEADY = 0.2
"""Rounds in which the baseline differs from itself by more (relative) are set aside, while enough others are left."""
_FEWEST_STEADY = 2
_LESS_IS_BETTER = ("memory_over_base_mb",)


@dataclass(frozen=True)
class Series:
    """A noisy series up to tonight, as logs that are worse when lower, and what tonight was expected to be.

    `why` is the reason for suspicion; `sign` is -1 for a metric of which less is better.
    """

    rule: Rule
    sign: int
    past: tuple[HostRun, ...]
    nights: tuple[Night, ...]
    tonight: Night
    expectation: Expectation
    why: str = ""


@dataclass(frozen=True)
class Judgement:
    """A row of `verdicts`; with its series while a re-run has to decide it."""

    row: VerdictRow
    pending: Series | None = None


def judge_timed(history: History, row: VerdictRow, past: Sequence[HostRun]) -> Judgement | None:
    """The judgement of a noisy series against its comparable nights; null where tonight has no round of it."""
    rule, sign = TIMED[row.metric], -1 if row.metric in _LESS_IS_BETTER else 1
    nights = _nights_by_run(history, row, [*past, history.now], sign)
    tonight = nights.pop(history.now.key, None)
    if tonight is None:
        return None
    past = [each for each in past if each.key in nights]
    series = tuple(nights[each.key] for each in past)
    row = row.replace(value=math.exp(sign * tonight.level), history=len(series))
    expectation = expect_night(series, rule, change_starts(history, row))
    if expectation is None:
        return Judgement(row.replace(reason=f"{counted(NIGHTS_NEEDED - len(series), 'night')} more are needed"))
    whole = Series(rule, sign, tuple(past), series, tonight, expectation)
    found = _with_figures(row.replace(history=expectation.nights), whole, shift(tonight.values, expectation))
    if not is_suspicious(tonight, expectation, rule):
        return Judgement(found.replace(verdict="ok", reason="within the noise band"))
    return _suspicion(found, whole, history.now)


def _suspicion(row: VerdictRow, series: Series, now: HostRun) -> Judgement:
    """A suspicious night; pending, unless it is too early for an alarm, whatever a re-run would say."""
    assert row.band is not None  # _with_figures has set it
    reason = f"{change_text(row)}, beyond the band of {100 * row.band:.1f} %{_doubt(now)}"
    if too_early := _too_early(row, series):
        return Judgement(row.replace(verdict="suspicious-unconfirmed", reason=f"{reason}; {too_early}"))
    return Judgement(row.replace(verdict="suspicious-unconfirmed", reason=reason), replace(series, why=reason))


def _too_early(row: VerdictRow, series: Series) -> str | None:
    """Why a change cannot be confirmed tonight, whatever is measured: it has not lasted long enough."""
    is_worse = series.sign * ((row.ratio or 1.0) - 1) < 0
    needed = series.rule.lasting if is_worse else max(series.rule.lasting, LASTING_IMPROVEMENT)
    lasted = len(series.nights) - _first_changed(row, series) + 1
    return f"seen for {counted(lasted, 'night')} of {needed}" if lasted < needed else None


def settle(judgement: Judgement, reruns: Sequence[str], rounds: Sequence[PairedRound]) -> Judgement:
    """What a pending judgement becomes with all rounds of its re-runs so far; still pending where they cannot tell."""
    series, row = judgement.pending, judgement.row.replace(rerun=tuple(reruns))
    if series is None:
        return judgement
    ours = [each for each in rounds if (each.host, each.variant) == (row.host, row.variant)]
    values = _log_values(ours, row.metric, series.sign, fewest=LOOKS[0])
    if not values:
        return Judgement(row.replace(reason=f"{series.why}; it could not be measured again"))
    changed = shift(values, series.expectation)
    found, decision = _with_figures(row, series, changed), decide(changed, series.rule)
    if decision == "same":
        return Judgement(found.replace(verdict="ok", reason=f"not confirmed by {len(values)} new rounds"))
    if decision == "undecided":
        return _undecided(found, series, ours, "which could not tell: the host is too noisy")
    if abs(math.log(found.ratio or 1.0)) <= (floor := _noise_floor(ours)):
        doubt = f"in which the baseline differs from itself by {100 * math.expm1(floor):.1f} %"
        return _undecided(found, series, ours, doubt)
    reason = f"{change_text(found)}, confirmed by {len(values)} new rounds"
    if too_early := _too_early(found, series):
        return Judgement(found.replace(reason=f"{reason}; {too_early}"))
    first = _first_changed(found, series)
    return Judgement(with_change(found, series.past, first, worse=decision == "worse", reason=reason))


def _undecided(row: VerdictRow, series: Series, rounds: Sequence[PairedRound], doubt: str) -> Judgement:
    reason = f"{series.why}; measured again in {len(rounds)} rounds, {doubt}"
    return Judgement(row.replace(reason=reason), series if len(rounds) < LOOKS[-1] else None)


def _noise_floor(rounds: Sequence[PairedRound]) -> float:
    """How far the baseline's two processes differ, as a log, in the median round: a shift's interval has the noise."""
    ratios = [math.log(row.baseline_self_ratio) for row in rounds if row.baseline_self_ratio]
    return abs(float(np.median(ratios))) if ratios else math.inf


def _nights_by_run(
    history: History, row: VerdictRow, runs: Sequence[HostRun], sign: int
) -> dict[tuple[str, str], Night]:
    """A series' nights by run and host; what was measured again in a night belongs to it."""
    night_of_rerun: dict[str, str] = {}
    for verdict in history.verdicts:
        if (verdict.variant, verdict.metric) == (row.variant, row.metric):
            night_of_rerun |= dict.fromkeys(verdict.rerun or (), verdict.run)
    by_night = defaultdict(list)
    for each in history.rounds:
        if each.variant == row.variant:
            by_night[night_of_rerun.get(each.run, each.run), each.host].append(each)
    values = {each.key: _log_values(by_night[each.key], row.metric, sign) for each in runs}
    return {key: Night(key[0], found) for key, found in values.items() if found}


def _log_values(
    rounds: Sequence[PairedRound], metric: str, sign: int, fewest: int = _FEWEST_STEADY
) -> tuple[float, ...]:
    """A value a round; without the rounds in which the baseline disagrees with itself, if enough are left."""
    found = [(row, value) for row in rounds if (value := row.value(metric)) is not None and value > 0]
    steady = [each for each in found if abs(math.log(each[0].baseline_self_ratio or 1.0)) <= STEADY]
    kept = steady if len(steady) >= fewest else found
    return tuple(sign * math.log(value) for _, value in kept)


def _with_figures(row: VerdictRow, series: Series, found: Shift) -> VerdictRow:
    """The row with value, reference and their ratio, in the metric's own direction; infinite ends are left out."""
    bounds = [math.exp(series.sign * end) if math.isfinite(end) else None for end in (found.lo, found.hi)]
    lo, hi = bounds if series.sign > 0 else bounds[::-1]
    reference, ratio = math.exp(series.sign * series.expectation.level), math.exp(series.sign * found.value)
    band = 1 - math.exp(-tolerance(len(series.tonight.values), series.expectation, series.rule))
    return row.replace(value=reference * ratio, reference=reference, ratio=ratio, lo=lo, hi=hi, band=band)


def _first_changed(row: VerdictRow, series: Series) -> int:
    assert row.ratio is not None  # _with_figures has set it
    level = series.expectation.level
    tonight = level + series.sign * math.log(row.ratio)
    return first_changed_night([night.level for night in series.nights], series.expectation.start, level, tonight)


def _doubt(now: HostRun) -> str:
    if not now.tainted:
        return ""
    noise = "unknown" if now.noise_floor is None else f"{100 * now.noise_floor:.1f} %"
    return f"; TAINTED: the noise floor of the run is {noise}"
