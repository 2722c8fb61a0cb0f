"""The figures of docs/judge.md: false alarms and missed changes of `slimline judge`, in runs with fresh noise.

    python -m slimline.tasks.regression.series_simulation docs/data/noise.csv docs

writes data/judge.md (the table) and data/judge.csv there, the same from the same data. Noise is recorded, as for
docs/nightly.md, or drawn: normal, with heavy tails, or correlated from run to run.
"""

from __future__ import annotations

import csv
import itertools
import math
import random
import statistics
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

from slimline.tasks.regression.detection import LOOKS
from slimline.tasks.regression.series_csv import Choices, Run, Series
from slimline.tasks.regression.series_judge import Replay
from slimline.tasks.regression.simulation import Recording, SimulatedNight, read_recordings

RUNS = 200
SEEDS = 5
TRIALS = 40
HISTORY = 20
"""Runs before a change."""
PATIENCE = 10
"""Runs in which a change may be found."""
SLOWER = (0.05, 0.1, 0.2)
SCATTER = 0.02
_AGAIN = LOOKS[1]
_VARIANT = "int8"
_START = datetime(2026, 1, 1, tzinfo=UTC)

DrawRun = Callable[[int], list[float]]
"""That many values of one run, from around one moment; called again, more of the same run."""
Noise = Callable[[random.Random], Iterator[DrawRun]]
"""Runs without a change, one after the other."""


class Layout(NamedTuple):
    """A kind of noise, how many values a run has, and whether a suspicious run is measured again."""

    noise: str
    values: int
    again: bool


class Figures(NamedTuple):
    """What the judge says of a layout: alarms by seed in runs without a change, and the changes that it finds."""

    layout: Layout
    regressions: list[int]
    improvements: list[int]
    found: list[float]
    """Share of changes found within `PATIENCE` runs, by `SLOWER`."""
    delay: list[float | None]
    """Median of the runs it takes, the first slower one included; null where fewer than half are found."""


def recorded(recording: Recording) -> Noise:
    """Speed ratios of one variant in nights around moments of a recording."""

    def runs(draw: random.Random) -> Iterator[DrawRun]:
        for number in itertools.count():
            yield partial(_ratios, SimulatedNight(recording, number, draw, None))

    return runs


def _ratios(night: SimulatedNight, count: int) -> list[float]:
    return [row.speed_ratio or 1.0 for row in night.rounds("", count) if row.variant == _VARIANT]


def drawn(deviation: Callable[[random.Random, float], float]) -> Noise:
    """Levels of runs that `deviation` draws, from the one before; values of a run differ from it a quarter as much."""

    def runs(draw: random.Random) -> Iterator[DrawRun]:
        level = 0.0
        while True:
            level = deviation(draw, level)
            yield partial(_scattered, draw, level)

    return runs


def _scattered(draw: random.Random, level: float, count: int) -> list[float]:
    return [math.exp(SCATTER * (level + draw.gauss(0, 0.25))) for _ in range(count)]


def _normal(draw: random.Random, before: float) -> float:
    return draw.gauss(0, 1)


def _heavy(draw: random.Random, before: float) -> float:
    """Student's t with three degrees of freedom."""
    return draw.gauss(0, 1) / math.sqrt(draw.gammavariate(1.5, 2) / 3)


def _correlated(draw: random.Random, before: float) -> float:
    return 0.6 * before + 0.8 * draw.gauss(0, 1)


def simulate_series(noise: Noise, layout: Layout, runs: int, seed: int, factor: float = 1.0) -> list[str]:
    """The verdict on each run, as `slimline judge` gives it; from the run `HISTORY` on, values are `factor` times."""
    choices = Choices("higher")
    replay = Replay(Series("simulated", choices.better, choices.relevant, ()))
    verdicts: list[str] = []
    for number, draw_run in zip(range(runs), noise(random.Random(seed)), strict=False):
        scale = factor if number >= HISTORY else 1.0
        values = tuple(scale * value for value in draw_run(layout.values))
        run = Run(str(number), _START + timedelta(days=number), values, (), "", "", {})
        verdict = replay.judge(run).verdict
        if layout.again and verdict == "suspicious-unconfirmed":
            again = tuple(scale * value for value in draw_run(_AGAIN))
            verdict = replay.judge(run._replace(again=again)).verdict
        verdicts.append(verdict)
    return verdicts


def figures(noise: Noise, layout: Layout) -> Figures:
    """Simulate a layout with and without changes."""
    steady = [simulate_series(noise, layout, RUNS, seed) for seed in range(SEEDS)]
    found: list[float] = []
    delay: list[float | None] = []
    for slower in SLOWER:
        delays = [_delay(noise, layout, seed, 1 - slower) for seed in range(1000, 1000 + TRIALS)]
        found.append(sum(each <= PATIENCE for each in delays) / TRIALS)
        median = statistics.median(delays)
        delay.append(median if median <= PATIENCE else None)
    regressions, improvements = ([each.count(what) for each in steady] for what in ("regression", "improvement"))
    return Figures(layout, regressions, improvements, found, delay)


def _delay(noise: Noise, layout: Layout, seed: int, factor: float) -> float:
    """Runs until a change is found, the first with it included; infinite if it is not."""
    verdicts = simulate_series(noise, layout, HISTORY + PATIENCE, seed, factor)[HISTORY:]
    return verdicts.index("regression") + 1 if "regression" in verdicts else math.inf


def _table(rows: list[Figures]) -> str:
    changes = " | ".join(f"{slower:.0%} slower" for slower in SLOWER)
    head = ["noise", "values a run", f"false regressions in {RUNS} runs", "false improvements"]
    lines = [f"| {' | '.join(head)} | {changes} |", f"|{' --- |' * (len(head) + len(SLOWER))}"]
    for row in rows:
        values = f"{row.layout.values}, re-run of {_AGAIN}" if row.layout.again else str(row.layout.values)
        alarms = [", ".join(map(str, each)) for each in (row.regressions, row.improvements)]
        pairs = zip(row.found, row.delay, strict=True)
        shares = [f"{share:.0%}" + (f", after {delay:g}" if delay else "") for share, delay in pairs]
        lines.append(f"| {' | '.join([row.layout.noise, values, *alarms, *shares])} |")
    return "\n".join(lines) + "\n"


def main(source: Path, docs: Path) -> None:
    """Simulate, and write the figures."""
    kinds = {f"recorded: {each.name}": recorded(each) for each in read_recordings(source)}
    layouts = [Layout(name, values, again) for name in kinds for values, again in ((1, False), (10, False), (10, True))]
    kinds |= {
        "normal, 2 %": drawn(_normal),
        "heavy tails (t3), 2 %": drawn(_heavy),
        "correlated (0.6), 2 %": drawn(_correlated),
    }
    layouts += [Layout(name, 1, False) for name in list(kinds)[-3:]]
    rows = [figures(kinds[layout.noise], layout) for layout in layouts]
    (docs / "data").mkdir(parents=True, exist_ok=True)
    (docs / "data/judge.md").write_text(_table(rows), "utf8")
    with (docs / "data/judge.csv").open("w", encoding="utf8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["noise", "values", "again", "slower", "seed", "regressions", "improvements", "found", "delay"])
        for row in rows:
            steady = enumerate(zip(row.regressions, row.improvements, strict=True))
            writer.writerows([*row.layout, 0, seed, *counts, "", ""] for seed, counts in steady)
            changed = zip(SLOWER, row.found, row.delay, strict=True)
            writer.writerows([*row.layout, slower, "", "", "", share, delay] for slower, share, delay in changed)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
