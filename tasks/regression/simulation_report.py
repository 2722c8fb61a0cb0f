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

import altair as alt
import vl_convert

from slimline.storage.queries.history import Row
from slimline.tasks.regression.simulation import Recording, Simulated, Slowdown, read_recordings, simulate

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


def false_alarms(recording: Recording, seeds: int = SEEDS, nights: int = NIGHTS) -> list[Row]:
    """A row a seed: what was said of that many nights in which nothing had changed."""
    rows = []
    for seed in range(seeds):
        found = simulate(recording, nights, ROUNDS, seed)
        counts = {name: found.count(name) for name in ("regression", "improvement", "suspicious-unconfirmed")}
        again = sum(count > 0 for count in found.again) / nights
        rows.append({"recording": recording.name, "slowdown": 0.0, "seed": seed, **counts, "measured_again": again})
    return rows


def detections(recording: Recording, variant: str, factor: float, trials: int = TRIALS) -> Row:
    """In what share of trials a slowdown of one variant is flagged on its first night, and within `PATIENCE` nights."""
    slowdown = Slowdown(variant, factor, HISTORY)
    trials_hit = [
        _flagged(simulate(recording, HISTORY + PATIENCE, ROUNDS, 1_000 + seed, slowdown), variant)
        for seed in range(trials)
    ]
    return {
        **{"recording": recording.name, "variant": variant, "slowdown": round(1 - factor, 2)},
        "first_night": statistics.fmean(nights[0] for nights in trials_hit),
        "within_nights": statistics.fmean(any(nights) for nights in trials_hit),
    }


def _flagged(found: Simulated, variant: str) -> list[bool]:
    return [
        any(row["verdict"] == "regression" and row["variant"] == variant for row in night)
        for night in found.verdicts[HISTORY:]
    ]


def noise_of(recording: Recording) -> Row:
    """How noisy a recording is: its rounds, and typical differences of the baseline from itself and of the ratios."""
    itself = [abs(math.log(row["baseline_self_ratio"])) for round_ in recording.rounds for row in round_.values()]
    logs = [
        [math.log(round_[variant]["speed_ratio"]) for round_ in recording.rounds if variant in round_]
        for variant in _variants(recording)
    ]
    spreads = [1.4826 * statistics.median(abs(value - statistics.median(each)) for value in each) for each in logs]
    return {
        **{"recording": recording.name, "rounds": len(recording.rounds)},
        **{"itself": math.expm1(statistics.median(itself)), "spread": math.expm1(max(spreads))},
    }


def _variants(recording: Recording) -> list[str]:
    return sorted({name for round_ in recording.rounds for name in round_} - {recording.baseline})


def _table(noise: Sequence[Row], alarms: Sequence[Row], power: Sequence[Row]) -> str:
    factors = " | ".join(f"{1 - factor:.0%} slower" for factor in FACTORS)
    lines = [
        f"| recording | rounds | baseline against itself | spread of a round | false alarms in {NIGHTS} nights "
        f"| nights measured again | {factors} |",
        f"|{' --- |' * (6 + len(FACTORS))}",
    ]
    for each in noise:
        ours = [row for row in alarms if row["recording"] == each["recording"]]
        shares = []
        for factor in FACTORS:
            found = [
                row
                for row in power
                if row["recording"] == each["recording"] and row["slowdown"] == round(1 - factor, 2)
            ]
            first, later = (statistics.fmean(row[name] for row in found) for name in ("first_night", "within_nights"))
            shares.append(f"{first:.0%}, {later:.0%}")
        counts = ", ".join(str(row["regression"]) for row in ours)
        again = statistics.fmean(row["measured_again"] for row in ours)
        cells = [each["recording"], str(each["rounds"]), f"{each['itself']:.1%}", f"{each['spread']:.1%}", counts]
        lines.append(f"| {' | '.join([*cells, f'{again:.0%}', *shares])} |")
    return "\n".join(lines) + "\n"


def _picture(power: Sequence[Row]) -> str:
    rows = [
        {
            "slower (%)": 100 * row["slowdown"],
            "flagged (%)": 100 * row[name],
            "when": when,
            "recording": row["recording"],
        }
        for row in power
        for name, when in (("first_night", "first night"), ("within_nights", f"within {PATIENCE} nights"))
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
    rows = [*alarms, *power]
    with (docs / "data/nightly.csv").open("w", encoding="utf8", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (docs / "data/nightly.md").write_text(_table([noise_of(each) for each in recordings], alarms, power), "utf8")
    (docs / "pictures/nightly.svg").write_text(_picture(power), "utf8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
