"""Simulated nights from recorded noise: how often the judge of nightly runs cries wolf, and what it misses.

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

from slimline.storage.queries.history import Conducted, History, Row
from slimline.tasks.regression.detection import LOOKS, NIGHTS_KEPT
from slimline.tasks.regression.judge import Judgement, judge, rows_of, settle

BLOCK = 3
WINDOW = 24
"""Recorded rounds around a moment from which a night's are drawn."""
_FIRST_NIGHT = datetime(2026, 1, 1, 2, 30, tzinfo=UTC)


class Recording(NamedTuple):
    """Consecutive rounds of one study on one machine: of each, the rows of `paired_rounds` by variant."""

    name: str
    baseline: str
    rounds: list[dict[str, Row]]


class Slowdown(NamedTuple):
    """A variant whose speed is multiplied by `factor` from a night on."""

    variant: str
    factor: float
    night: int


class Simulated(NamedTuple):
    """The verdict rows of every night, and how many rounds were measured again in each."""

    verdicts: list[list[Row]]
    again: list[int]

    def count(self, verdict: str) -> int:
        """How often a verdict was given."""
        return sum(row["verdict"] == verdict for night in self.verdicts for row in night)


def read_recordings(path: Path) -> list[Recording]:
    """The recordings of a CSV file with recording, baseline, run, round and the columns of `rounds` it takes."""
    turns: dict[tuple[str, str], dict[tuple[str, int], dict[str, list[Row]]]] = defaultdict(dict)
    with path.open(encoding="utf8", newline="") as file:
        for row in csv.DictReader(file):
            rounds = turns[row["recording"], row["baseline"]]
            rounds.setdefault((row["run"], int(row["round"])), defaultdict(list))[row["variant"]].append(row)
    return [
        Recording(name, baseline, [found for each in rounds.values() if (found := _paired(each, baseline))])
        for (name, baseline), rounds in turns.items()
    ]


def _paired(turns: dict[str, list[Row]], baseline: str) -> dict[str, Row]:
    """A round as the view `paired_rounds` has it; empty where the baseline did not run twice."""
    speeds = {name: [float(row["samples_per_s"]) for row in rows] for name, rows in turns.items()}
    if len(speeds.get(baseline, ())) < 2:
        return {}
    first, second = speeds[baseline]
    return {
        name: {
            "variant": name,
            "samples_per_s": statistics.fmean(found),
            "speed_ratio": statistics.fmean(found) / statistics.fmean(speeds[baseline]),
            "baseline_self_ratio": second / first,
            "memory_over_base_mb": statistics.fmean(float(row["memory_over_base_mb"]) for row in turns[name]),
            "samples": None,
            "prompt_tokens": None,
        }
        for name, found in speeds.items()
    }


def simulate(recording: Recording, nights: int, rounds: int, seed: int, slowdown: Slowdown | None = None) -> Simulated:
    """That many nights in a row, each of so many rounds, as the judge sees them; without a slowdown all are alike."""
    draw = random.Random(seed)
    past: deque[tuple[Conducted, list[Row], list[Row]]] = deque(maxlen=NIGHTS_KEPT)
    verdicts: list[Row] = []
    found = Simulated([], [])
    for number in range(nights):
        night = _Night(recording, number, draw, slowdown)
        now = night.conducted()
        rows = night.rounds(now.run, rounds)
        measured = _measured(now, rows)
        history = History(
            now,
            tuple(conducted for conducted, _, _ in past),
            [row for _, earlier, _ in past for row in earlier] + rows,
            [row for _, _, earlier in past for row in earlier] + measured,
            verdicts,
        )
        judgements, again = _looked_at_again(judge(history, lambda conducted, variant: {}), night)
        judged = rows_of(judgements, history)
        past.append((now, rows + again, measured))
        verdicts += judged
        found.verdicts.append(judged)
        found.again.append(len({row["round"] for row in again}))
    return found


class _Night:
    """One simulated night: its moment of the recording, and more rounds from around it whenever they are wanted."""

    def __init__(self, recording: Recording, number: int, draw: random.Random, slowdown: Slowdown | None) -> None:
        self.number, self._baseline, self._draw = number, recording.baseline, draw
        self._slowdown = slowdown if slowdown and number >= slowdown.night else None
        first = draw.randrange(max(1, len(recording.rounds) - WINDOW + 1))
        self._around = recording.rounds[first : first + WINDOW]

    def conducted(self) -> Conducted:
        """The run of this night."""
        name, started = f"night-{self.number}", _FIRST_NIGHT + timedelta(days=self.number)
        return Conducted(name, "box", "simulated", self._baseline, started, "class", None, None, {}, None, {}, None)

    def rounds(self, run: str, count: int) -> list[Row]:
        """That many rounds, as rows of `paired_rounds`."""
        chosen: list[dict[str, Row]] = []
        while len(chosen) < count:
            start = self._draw.randrange(max(1, len(self._around) - BLOCK + 1))
            chosen += self._around[start : start + BLOCK]
        return [
            self._slowed(row) | {"run": run, "host": "box", "round": number}
            for number, round_ in enumerate(chosen[:count])
            for row in round_.values()
        ]

    def _slowed(self, row: Row) -> Row:
        if self._slowdown is None or row["variant"] != self._slowdown.variant:
            return row
        return row | {name: row[name] * self._slowdown.factor for name in ("samples_per_s", "speed_ratio")}


def _measured(now: Conducted, rows: Sequence[Row]) -> list[Row]:
    by_variant = defaultdict(list)
    for row in rows:
        by_variant[row["variant"]].append(row)
    return [
        {
            **{"run": now.run, "host": now.host, "variant": variant, "metric": metric, "metric_version": 1},
            **{"value": statistics.median(row[metric] for row in found), "error": None},
        }
        for variant, found in by_variant.items()
        for metric in ("samples_per_s", "speed_ratio", "memory_over_base_mb")
    ]


def _looked_at_again(judgements: list[Judgement], night: _Night) -> tuple[list[Judgement], list[Row]]:
    """The judgements after as many re-runs as they need, and the rounds of those."""
    rows: list[Row] = []
    reruns: list[str] = []
    for before, after in zip((0, *LOOKS), LOOKS, strict=False):
        if not any(each.pending for each in judgements):
            break
        reruns.append(f"night-{night.number}-again-{after}")
        new = night.rounds(reruns[-1], after - before)
        rows += [row | {"round": row["round"] + before} for row in new]
        judgements = [settle(each, reruns, rows) for each in judgements]
    return judgements, rows
