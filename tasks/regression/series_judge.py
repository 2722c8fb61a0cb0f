"""The nightly judge for any series: every run is judged against those before it, as it would have been at its time.

A night of slimline is measured again when it is suspicious; a file cannot be. So later runs confirm a change, or rows
that are marked as a re-run. Either way only new values decide, because a run that was picked for being far off
overstates how far, and levels, noise, suspicion and decision are those of `detection`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from slimline.storage.text import counted
from slimline.tasks.regression.detection import (
    LASTING_IMPROVEMENT,
    LOOKS,
    NIGHTS_KEPT,
    NIGHTS_NEEDED,
    Decision,
    Expectation,
    Night,
    Rule,
    Shift,
    decide,
    expect_night,
    is_suspicious,
    shift,
    shift_of_nights,
    tolerance,
)
from slimline.tasks.regression.series_csv import Run, Series

Verdict = Literal["ok", "new", "not-comparable", "suspicious-unconfirmed", "regression", "improvement"]
LASTING = 3
"""Runs in a row, the newest included, for which a change must have lasted if no re-run confirms it."""
PATIENCE = 20
"""Runs after which a change that could not be told from noise is no longer waited for."""
REPLAYED = 250
"""Runs of a series that are judged again, the newest ones."""
_NOISE = 0.4  # of the relevant change: the noise between runs that is assumed while a series learns its own
_LARGEST_LOG = 700.0  # beyond it there is no number


class ChangedColumn(BaseModel):
    """A column that differs between the last run before a change and its first."""

    model_config = ConfigDict(frozen=True)

    column: str
    before: str
    after: str


class Change(BaseModel):
    """A confirmed change: when it was confirmed, where it began, and by how much."""

    model_config = ConfigDict(frozen=True)

    verdict: Literal["regression", "improvement"]
    run: str
    since: str
    since_time: datetime
    ratio: float
    suspects: tuple[ChangedColumn, ...] = ()


class SeriesVerdict(BaseModel):
    """What is said of the newest run of a series.

    Attributes:
        series: Name of the series.
        verdict: As of nightly runs.
        run: The newest run.
        time: When it was.
        value: The median of its values.
        reference: The level it is judged against.
        ratio: To the reference, of `value`, or of the runs or the re-run that decided.
        lo: Lower end of the ratio's 99 % interval.
        hi: Upper end.
        band: How far a run may be from the reference (relative).
        runs: Runs that the reference rests on.
        unit: Unit of the values.
        better: Which way is better.
        since: The run with which the level, the suspicion or the change began.
        since_time: When that was.
        reason: Why the verdict is what it is.
        suspects: Of a confirmed change, the columns that changed with it.
        open: The newest regression that has not been undone by half; null where there is none.
        crept: How far the reference is from the first level since the last confirmed change, as a ratio, where it is
            worse by what matters: a slow drift, or a step of which no run was sure; null where it is not.
    """

    model_config = ConfigDict(frozen=True)

    series: str
    verdict: Verdict
    run: str
    time: datetime
    value: float
    reference: float | None = None
    ratio: float | None = None
    lo: float | None = None
    hi: float | None = None
    band: float | None = None
    runs: int = 0
    unit: str
    better: str
    since: str | None = None
    since_time: datetime | None = None
    reason: str
    suspects: tuple[ChangedColumn, ...] = ()
    open: Change | None = None
    crept: float | None = None


class Found(NamedTuple):
    """What one run of the replay was found to be; `first` is where its level, suspicion or change began."""

    verdict: Verdict
    reason: str
    expectation: Expectation | None = None
    shift: Shift | None = None
    first: int = 0


def judge_series(series: Series, lasting: int = LASTING) -> SeriesVerdict:
    """The verdict on the newest run of a series, after all earlier ones have had theirs."""
    newest = series.runs[-1]
    runs = [each for each in series.runs if (each.unit, each.setup) == (newest.unit, newest.setup)]
    replay = Replay(series, lasting)
    found = [replay.judge(run) for run in runs[-REPLAYED:]][-1]
    if len(runs) == 1 and len(series.runs) > 1:
        before = series.runs[-2]
        column = "unit" if before.unit != newest.unit else "setup"
        was, now = getattr(before, column), getattr(newest, column)
        reason = f"{column} changed from {was or 'nothing'} to {now or 'nothing'} after {before.run}"
        found = Found("not-comparable", reason)
    return replay.report(found)


class _Waiting(NamedTuple):
    """A change that is not confirmed yet: its first run, and whether it is for the worse."""

    first: int
    is_worse: bool


class Replay:
    """The runs of a series, and what was said of them so far."""

    def __init__(self, series: Series, lasting: int = LASTING) -> None:
        self._series, self._lasting = series, lasting
        self._runs: list[Run] = []
        self._nights: list[Night] = []  # the same as logs that are worse when lower
        self.changes: list[Change] = []
        self._rule = Rule(series.relevant / 100, _NOISE * series.relevant / 100)
        self._sign = 1 if series.better == "higher" else -1
        self._waiting: _Waiting | None = None
        self._starts: set[str] = set()

    def _logs(self, values: Sequence[float]) -> tuple[float, ...]:
        return tuple(self._sign * math.log(value) for value in values)

    def judge(self, run: Run) -> Found:
        """Judge the next run against those before it; or the newest once more, with the values of a re-run."""
        if self._runs and self._runs[-1].run == run.run:
            del self._runs[-1], self._nights[-1]
        self._runs.append(run)
        self._nights.append(Night(run.run, self._logs([*run.values, *run.again])))
        return self._judge(len(self._runs) - 1)

    def _judge(self, index: int) -> Found:
        until = self._waiting.first if self._waiting else index
        start = max(0, until - NIGHTS_KEPT)
        expectation = expect_night(self._nights[start:until], self._rule, self._starts)
        if expectation is None:
            return Found("new", f"{counted(NIGHTS_NEEDED - until, 'more run')} needed")
        tonight = Night(self._runs[index].run, self._logs(self._runs[index].values))
        found = shift_of_nights([tonight], expectation)
        if self._waiting and not self._is_still_there(found, self._waiting):
            self._waiting = None
            return self._judge(index)
        if not self._waiting:
            if not is_suspicious(tonight, expectation, self._rule):
                return Found("ok", "within the noise band", expectation, found, start + expectation.start)
            self._waiting = _Waiting(index, found.value < 0)
        return self._decide(index, self._waiting, expectation, found)

    def _is_still_there(self, found: Shift, waiting: _Waiting) -> bool:
        return (found.value < 0) == waiting.is_worse and abs(found.value) >= self._rule.step / 2

    def _decide(self, index: int, waiting: _Waiting, expectation: Expectation, found: Shift) -> Found:
        """Decide by new values: those of a re-run, or of the runs after the first one of the change."""
        lasted, again = index - waiting.first + 1, self._logs(self._runs[index].again)
        if len(again) >= LOOKS[0]:
            changed, by = shift(again, expectation), f"{len(again)} values of a re-run"
            needed = 1 if waiting.is_worse else LASTING_IMPROVEMENT
        else:
            needed = self._lasting
            later = self._nights[waiting.first + 1 : index + 1]
            changed = shift_of_nights(later, expectation) if lasted >= needed else found
            by = counted(len(later), "later run")
        reason = f"{100 * math.expm1(self._sign * changed.value):+.1f} %"
        whole = Found("suspicious-unconfirmed", reason, expectation, changed, waiting.first)
        if lasted < needed:
            return whole._replace(reason=f"{reason}; seen for {counted(lasted, 'run')} of {needed}")
        return self._settle(whole, index, decide(changed, self._rule), by, gives_up=lasted > PATIENCE)

    def _settle(self, found: Found, index: int, decision: Decision, by: str, gives_up: bool) -> Found:
        if decision == "undecided":
            self._waiting = None if gives_up else self._waiting
            return found._replace(reason=f"{found.reason}; {by} could not tell")
        self._waiting = None
        if decision == "same":
            return found._replace(verdict="ok", reason=f"{found.reason}; not confirmed by {by}")
        verdict: Literal["regression", "improvement"] = "regression" if decision == "worse" else "improvement"
        first = self._runs[found.first]
        self._starts.add(first.run)
        assert found.shift  # _decide has set it
        change = Change(
            verdict=verdict,
            run=self._runs[index].run,
            since=first.run,
            since_time=first.time,
            ratio=math.exp(self._sign * found.shift.value),
            suspects=self._suspects(found.first),
        )
        self.changes.append(change)
        return found._replace(verdict=verdict, reason=f"{found.reason}, confirmed by {by}")

    def _suspects(self, first: int) -> tuple[ChangedColumn, ...]:
        before, after = self._runs[first - 1].blame, self._runs[first].blame
        return tuple(
            ChangedColumn(column=name, before=before[name], after=after[name])
            for name in before
            if before[name] != after[name]
        )

    def open_regression(self) -> Change | None:
        """The newest confirmed regression, unless later confirmed improvements have undone at least half of it."""
        regression: Change | None = None
        left = 0.0
        for change in self.changes:
            step = self._sign * math.log(change.ratio)
            if change.verdict == "regression":
                regression, left, whole = change, step, step
            elif regression:
                left += step
                regression = regression if left / whole > 1 / 2 else None
        return regression

    def _crept(self, expectation: Expectation) -> float | None:
        change = expectation.level - expectation.began
        return math.exp(self._sign * change) if change <= -self._rule.step else None

    def report(self, found: Found) -> SeriesVerdict:
        """The verdict on the newest run, with its figures in the values' own direction."""
        newest, sign = self._runs[-1], self._sign
        values = self._logs(newest.values)
        report = SeriesVerdict(
            series=self._series.name,
            verdict=found.verdict,
            run=newest.run,
            time=newest.time,
            value=math.exp(sign * Night(newest.run, values).level),
            unit=newest.unit,
            better=self._series.better,
            reason=found.reason,
        )
        if found.expectation is None or found.shift is None:
            return report
        lo, hi = sorted((sign * found.shift.lo, sign * found.shift.hi))
        figures = {
            "reference": math.exp(sign * found.expectation.level),
            "ratio": math.exp(sign * found.shift.value),
            "lo": _ratio(lo),
            "hi": _ratio(hi),
            "band": -math.expm1(-tolerance(len(values), found.expectation, self._rule)),
            "runs": found.expectation.nights,
            "since": self._runs[found.first].run,
            "since_time": self._runs[found.first].time,
            "open": self.open_regression(),
            "crept": self._crept(found.expectation),
        }
        suspects = self.changes[-1].suspects if found.verdict in ("regression", "improvement") else ()
        return report.model_copy(update={**figures, "suspects": suspects})


def _ratio(log: float) -> float | None:
    return math.exp(log) if abs(log) < _LARGEST_LOG else None
