"""The figures of docs/nightly.md: false alarms and missed slowdowns in nights simulated from recorded noise.

    python -m slimline.tasks.regression.simulation_report docs/data/noise.csv docs

writes data/nightly.csv, data/nightly.md (the table) and pictures/nightly.svg there, the same from the same data.
"""

from __future__ import annotations

import csv
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import altair as alt
import vl_convert

from slimline.tasks.regression.simulation import Recording, Simulation, Slowdown, read_recordings, simulate

NIGHTS = 200
ROUNDS = 10
"""Rounds a night: as the deployment `nightly` has them."""
SEEDS = 5
TRIALS = 30
HISTORY = 20
"""Nights before a slowdown."""
FACTORS = (0.95, 0.9, 0.8, 0.7)
PATIENCE = 3
"""Nights in which a slowdown may be flagged."""


class Alarms(NamedTuple):
    """What was said of the nights of one seed in which nothing had changed."""

    recording: str
    slowdown: float
    seed: int
    regression: int
    improvement: int
    suspicious_unconfirmed: int
    measured_again: float
    """Share of the nights."""


class Detections(NamedTuple):
    """The shares of trials in which a variant's slowdown is flagged on its first night, and within `PATIENCE`."""

    recording: str
    variant: str
    slowdown: float
    first_night: float
    within_nights: float


class Noise(NamedTuple):
    """How noisy a recording is: typical differences of the baseline from itself, and of the speed ratios (relative)."""

    recording: str
    rounds: int
    itself: float
    spread: float


def false_alarms(recording: Recording, seeds: int = SEEDS, nights: int = NIGHTS) -> list[Alarms]:
    """A row a seed: what was said of that many nights in which nothing had changed."""
    rows = []
    for seed in range(seeds):
        found = simulate(recording, nights, ROUNDS, seed)
        rows.append(
            Alarms(
                recording=recording.name,
                slowdown=0.0,
                seed=seed,
                regression=found.count("regression"),
                improvement=found.count("improvement"),
                suspicious_unconfirmed=found.count("suspicious-unconfirmed"),
                measured_again=sum(count > 0 for count in found.again) / nights,
            )
        )
    return rows


def detections(recording: Recording, variant: str, factor: float, trials: int = TRIALS) -> Detections:
    """In what share of trials a slowdown of one variant is flagged on its first night, and within `PATIENCE` nights."""
    slowdown = Slowdown(variant, factor, HISTORY)
    flagged = [
        _flagged_nights(simulate(recording, HISTORY + PATIENCE, ROUNDS, 1_000 + seed, slowdown), variant)
        for seed in range(trials)
    ]
    first, later = (statistics.fmean(found) for found in ([each[0] for each in flagged], [any(x) for x in flagged]))
    return Detections(recording.name, variant, round(1 - factor, 2), first, later)


def _flagged_nights(found: Simulation, variant: str) -> list[bool]:
    return [
        any(row.verdict == "regression" and row.variant == variant for row in night)
        for night in found.verdicts[HISTORY:]
    ]


def recorded_noise(recording: Recording) -> Noise:
    """How noisy a recording is."""
    itself = [abs(math.log(row.baseline_self_ratio or 1.0)) for each in recording.rounds for row in each.values()]
    logs = [
        [math.log(each[variant].speed_ratio or 1.0) for each in recording.rounds if variant in each]
        for variant in _variants(recording)
    ]
    spreads = [1.4826 * statistics.median(abs(value - statistics.median(each)) for value in each) for each in logs]
    spread = math.expm1(max(spreads))
    return Noise(recording.name, len(recording.rounds), math.expm1(statistics.median(itself)), spread)


def _variants(recording: Recording) -> list[str]:
    return sorted({name for round_ in recording.rounds for name in round_} - {recording.baseline})


def _table(noise: Sequence[Noise], alarms: Sequence[Alarms], power: Sequence[Detections]) -> str:
    factors = " | ".join(f"{1 - factor:.0%} slower" for factor in FACTORS)
    lines = [
        f"| recording | rounds | baseline against itself | spread of a round | false regressions in {NIGHTS} nights "
        f"| false improvements | nights measured again | {factors} |",
        f"|{' --- |' * (7 + len(FACTORS))}",
    ]
    for each in noise:
        ours = [row for row in alarms if row.recording == each.recording]
        found = [row for row in power if row.recording == each.recording]
        shares = [_shares([row for row in found if row.slowdown == round(1 - factor, 2)]) for factor in FACTORS]
        counts = [
            ", ".join(map(str, each)) for each in zip(*((r.regression, r.improvement) for r in ours), strict=True)
        ]
        again = statistics.fmean(row.measured_again for row in ours)
        cells = [each.recording, str(each.rounds), f"{each.itself:.1%}", f"{each.spread:.1%}", *counts, f"{again:.0%}"]
        lines.append(f"| {' | '.join([*cells, *shares])} |")
    return "\n".join(lines) + "\n"


def _shares(rows: Sequence[Detections]) -> str:
    first, later = (statistics.fmean(row.first_night for row in rows), statistics.fmean(r.within_nights for r in rows))
    return f"{first:.0%}, {later:.0%}"


def _picture(power: Sequence[Detections]) -> str:
    rows = [
        {
            "slower (%)": 100 * row.slowdown,
            "flagged (%)": 100 * share,
            "when": when,
            "recording": row.recording,
        }
        for row in power
        for share, when in ((row.first_night, "first night"), (row.within_nights, f"within {PATIENCE} nights"))
    ]
    chart = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("slower (%):Q", scale=alt.Scale(domain=[0, 30])),
            y=alt.Y("mean(flagged (%)):Q", title="flagged (%)", scale=alt.Scale(domain=[0, 100])),
            color=alt.Color("recording:N"),
            strokeDash=alt.StrokeDash("when:N"),
        )
        .properties(width=420, height=260, title="Slowdowns flagged after a re-run, in nights of recorded noise")
    )
    return str(vl_convert.vegalite_to_svg(chart.to_json()))


def main(source: Path, docs: Path) -> None:
    """Simulate, and write the figures."""
    recordings = read_recordings(source)
    alarms = [row for recording in recordings for row in false_alarms(recording)]
    power = [
        detections(recording, variant, factor)
        for recording in recordings
        for variant in _variants(recording)
        for factor in FACTORS
    ]
    for folder in ("data", "pictures"):
        (docs / folder).mkdir(parents=True, exist_ok=True)
    rows = [row._asdict() for row in alarms] + [row._asdict() for row in power]
    with (docs / "data/nightly.csv").open("w", encoding="utf8", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (docs / "data/nightly.md").write_text(_table([recorded_noise(each) for each in recordings], alarms, power), "utf8")
    (docs / "pictures/nightly.svg").write_text(_picture(power), "utf8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
