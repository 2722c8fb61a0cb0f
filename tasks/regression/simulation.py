"""Simulated nights from recorded noise: how often the judge of nightly runs raises a false alarm, and what it misses.

A night is drawn by a local block bootstrap (Paparoditis and Politis, Local Block Bootstrap, 2002): blocks of
consecutive recorded rounds, all from around one moment of the recording, so that a night keeps the noise of its time,
and nights differ as the hours of the recording did. Every night goes through the same judge as a real one, and so do
its re-runs.
"""

from __future__ import annotations

import csv
import random
import statistics
from collections import defaultdict, deque
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from slimline.storage.metrics.rows import MeasurementRow, VerdictRow
from slimline.storage.queries.history import History, HostRun, PairedRound
from slimline.tasks.regression.detection import LOOKS, NIGHTS_KEPT
from slimline.tasks.regression.judge import judge, verdict_rows
from slimline.tasks.regression.noisy_metrics import TIMED, Judgement, settle

_Turns = dict[str, list[dict[str, str]]]  # the lines of a round in the file, by variant
BLOCK = 3
WINDOW = 24
"""Recorded rounds around a moment from which a night's are drawn."""
_FIRST_NIGHT = datetime(2026, 1, 1, 2, 30, tzinfo=UTC)


class Recording(NamedTuple):
    """Consecutive rounds of one study on one machine: of each, the rows of `paired_rounds` by variant."""

    name: str
    baseline: str
    rounds: list[dict[str, PairedRound]]


class Slowdown(NamedTuple):
    """A variant whose speed is multiplied by `factor` from a night on."""

    variant: str
    factor: float
    night: int


class Simulation(NamedTuple):
    """The verdict rows of every night, and how many rounds were measured again in each."""

    verdicts: list[list[VerdictRow]]
    again: list[int]

    def count(self, verdict: str) -> int:
        """How often a verdict was given."""
        return sum(row.verdict == verdict for night in self.verdicts for row in night)


def read_recordings(path: Path) -> list[Recording]:
    """The recordings of a CSV file with recording, baseline, run, round and the columns of `rounds` it takes."""
    turns: dict[tuple[str, str], dict[tuple[str, int], _Turns]] = defaultdict(dict)
    with path.open(encoding="utf8", newline="") as file:
        for row in csv.DictReader(file):
            rounds = turns[row["recording"], row["baseline"]]
            rounds.setdefault((row["run"], int(row["round"])), defaultdict(list))[row["variant"]].append(row)
    return [
        Recording(name, baseline, [found for each in rounds.values() if (found := _pair(each, baseline))])
        for (name, baseline), rounds in turns.items()
    ]


def _pair(turns: _Turns, baseline: str) -> dict[str, PairedRound]:
    """A round as the view `paired_rounds` has it; empty where the baseline was not compared with itself."""
    own_ratio = _mean(turns.get(baseline, ()), "pair_ratio")
    if own_ratio is None:
        return {}
    return {
        name: PairedRound(
            run="",
            host="",
            round=0,
            variant=name,
            samples_per_s=_mean(rows, "samples_per_s"),
            speed_ratio=1.0 if name == baseline else _mean(rows, "pair_ratio"),
            baseline_self_ratio=own_ratio,
            memory_over_base_mb=_mean(rows, "memory_over_base_mb"),
        )
        for name, rows in turns.items()
        if _mean(rows, "pair_ratio") is not None  # else nothing is known of its speed: no ratio is made up
    }


def _mean(rows: Sequence[dict[str, str]], column: str) -> float | None:
    values = [float(row[column]) for row in rows if row[column]]
    return statistics.fmean(values) if values else None


def simulate(recording: Recording, nights: int, rounds: int, seed: int, slowdown: Slowdown | None = None) -> Simulation:
    """That many nights in a row, each of so many rounds, as the judge sees them; without a slowdown all are alike."""
    draw = random.Random(seed)
    past: deque[tuple[HostRun, list[PairedRound], list[MeasurementRow]]] = deque(maxlen=NIGHTS_KEPT)
    verdicts: list[VerdictRow] = []
    found = Simulation([], [])
    for number in range(nights):
        night = SimulatedNight(recording, number, draw, slowdown)
        now = night.host_run()
        rows = night.rounds(now.run, rounds)
        measurements = _measurements(now, rows)
        history = History(
            now,
            tuple(earlier for earlier, _, _ in past),
            [row for _, earlier, _ in past for row in earlier] + rows,
            [row for _, _, earlier in past for row in earlier] + measurements,
            verdicts,
        )
        judgements, again = _judge_again(judge(history, lambda run, variant: {}), night)
        judged = verdict_rows(judgements, history)
        past.append((now, rows + again, measurements))
        verdicts += judged
        found.verdicts.append(judged)
        found.again.append(len({row.round for row in again}))
    return found


class SimulatedNight:
    """One simulated night: its moment of the recording, and more rounds from around it whenever they are wanted."""

    def __init__(self, recording: Recording, number: int, draw: random.Random, slowdown: Slowdown | None) -> None:
        self.number, self._baseline, self._draw = number, recording.baseline, draw
        self._slowdown = slowdown if slowdown and number >= slowdown.night else None
        first = draw.randrange(max(1, len(recording.rounds) - WINDOW + 1))
        self._around = recording.rounds[first : first + WINDOW]

    def host_run(self) -> HostRun:
        """The run of this night."""
        return HostRun(
            run=f"night-{self.number}",
            host="box",
            study="simulated",
            baseline=self._baseline,
            started=_FIRST_NIGHT + timedelta(days=self.number),
            host_class="class",
        )

    def rounds(self, run: str, count: int) -> list[PairedRound]:
        """That many rounds, of every variant."""
        chosen: list[dict[str, PairedRound]] = []
        while len(chosen) < count:
            start = self._draw.randrange(max(1, len(self._around) - BLOCK + 1))
            chosen += self._around[start : start + BLOCK]
        return [
            row.model_copy(update={**self._speeds(row), "run": run, "host": "box", "round": number})
            for number, round_ in enumerate(chosen[:count])
            for row in round_.values()
        ]

    def _speeds(self, row: PairedRound) -> dict[str, float]:
        """The speeds of a variant that is slower tonight."""
        if self._slowdown is None or row.variant != self._slowdown.variant:
            return {}
        names = ("samples_per_s", "speed_ratio")
        return {name: (row.value(name) or 0.0) * self._slowdown.factor for name in names}


def _measurements(now: HostRun, rows: Sequence[PairedRound]) -> list[MeasurementRow]:
    by_variant = defaultdict(list)
    for row in rows:
        by_variant[row.variant].append(row)
    return [
        MeasurementRow(
            run=now.run,
            study=now.study,
            host=now.host,
            variant=variant,
            metric=metric,
            metric_version=1,
            time=now.started,
            value=statistics.median(row.value(metric) or 0.0 for row in found),
        )
        for variant, found in by_variant.items()
        for metric in TIMED
    ]


def _judge_again(judgements: list[Judgement], night: SimulatedNight) -> tuple[list[Judgement], list[PairedRound]]:
    """The judgements after as many re-runs as they need, and the rounds of those."""
    rows: list[PairedRound] = []
    reruns: list[str] = []
    for before, after in zip((0, *LOOKS), LOOKS, strict=False):
        if not any(each.pending for each in judgements):
            break
        reruns.append(f"night-{night.number}-again-{after}")
        new = night.rounds(reruns[-1], after - before)
        rows += [row.model_copy(update={"round": row.round + before}) for row in new]
        judgements = [settle(each, reruns, rows) for each in judgements]
    return judgements, rows
