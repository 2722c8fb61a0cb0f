"""Run the slimline command, with arguments of its own after the file that has the timings of this machine.

That file is JSON: by variant, the row of `rounds` that every turn of it gets. A turn's speed and its ratio to the
baseline differ by up to 2 % from the row's, the same in every run of this program; nothing is timed.
"""

import json
import sys
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from slimline.flows.cli.__main__ import main
from slimline.storage.metrics.rows import RoundRow
from slimline.tasks import steps
from slimline.tasks.measurement.probe import ProbeRequest
from slimline.tasks.measurement.rounds import Round
from slimline.tasks.measurement.summary import Turn

PLANTED = json.loads(Path(sys.argv.pop(1)).read_text("utf8"))
NOISE = (0.0, 0.02, -0.01, 0.01, -0.02)
turns: Counter[str] = Counter()


def planted_speed(turn: Turn, request: ProbeRequest, beside: Round) -> RoundRow:
    """The variant's row, at a slightly different speed in every turn."""
    turns[turn.variant] += 1
    row, now = RoundRow.model_validate_json(json.dumps(PLANTED[turn.variant])), datetime.now(UTC)
    luck = 1 + NOISE[turns[turn.variant] % len(NOISE)]
    speed = (row.samples_per_s or 0) * luck
    ratio = None if turn.is_reference else (row.pair_ratio or 1) * luck
    row = row.replace(**asdict(turn), started=now, finished=now)
    return row.replace(samples_per_s=speed, undisturbed_per_s=speed, pair_ratio=ratio)


steps.measure_speed = planted_speed
main()
