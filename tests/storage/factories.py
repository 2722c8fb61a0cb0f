"""Rows and directories that tests of the stores need."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slimline.storage.metrics.metric import METRICS
from slimline.storage.metrics.rows import MeasurementRow, PredictionRow, RoundRow, RunRow, VerdictRow

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, by its path."""
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def run_row(run: str = "r1", started: datetime = NOON, **values: Any) -> RunRow:
    """A run of the study `embedded` on the host `box`."""
    row: dict[str, Any] = {"study": "embedded", "finished": started, "host": "box", "status": "ok"}
    row |= {"baseline": "original", "rounds": 3, "samples": 200, "noise_floor": 0.02, "tainted": False}
    return RunRow(run=run, started=started, **(row | values))


def measured(
    variant: str, metric: str, value: float | None, run: str = "r1", time: datetime = NOON, **values: Any
) -> MeasurementRow:
    """A metric of a variant in that run."""
    row: dict[str, Any] = {"study": "embedded", "host": "box", "metric_version": METRICS[metric].version}
    row |= {"label": "repaired", "random_weights": False}
    return MeasurementRow(run=run, variant=variant, metric=metric, value=value, time=time, **(row | values))


def round_row(variant: str, number: int = 1, run: str = "r1", **values: Any) -> RoundRow:
    """A turn of a variant in that run."""
    row: dict[str, Any] = {"host": "box", "replicate": 0}
    return RoundRow(run=run, round=number, variant=variant, **(row | values))


def prediction_row(variant: str, sample: int, run: str = "r1", **values: Any) -> PredictionRow:
    """A completion of a variant in that run."""
    return PredictionRow(run=run, variant=variant, sample=sample, **({"host": "box"} | values))


def verdict_row(run: str = "r1", time: datetime = NOON, **values: Any) -> VerdictRow:
    """A verdict on the speed of `int8` in that run."""
    row: dict[str, Any] = {"study": "embedded", "host": "box", "variant": "int8", "metric": "speed_ratio"}
    row |= {"metric_version": 1, "verdict": "ok"}
    return VerdictRow(run=run, time=time, **(row | values))
