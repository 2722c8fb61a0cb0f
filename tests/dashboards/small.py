"""A store with one run of three variants."""

from datetime import UTC, datetime
from pathlib import Path

from slimline.storage.metrics.store import MetricsStore

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
FIGURES = {
    "original": {"speed_ratio": (1.0, 1.0, 1.0), "samples_per_s": (2.0, 1.9, 2.1), "es": (40.0, 38.0, 42.0)},
    "int8": {"speed_ratio": (8.0, 7.5, 8.5), "samples_per_s": (16.0, 15.0, 17.0), "es": (39.0, 37.0, 41.0)},
}
SIZES = {"original": (30.0, 400.0), "int8": (10.0, 100.0)}


def fill(root: Path, variant: str = "int8") -> None:
    """Write a run of the baseline and of one other variant, which is faster and smaller, and may be as good."""
    store = MetricsStore(root)
    run = {"run": "r1", "study": "embedded", "host": "box"}
    trust = {"noise_floor": 0.02, "tainted": False, "samples": 2, "rounds": 3, "baseline": "original"}
    store.append("runs", [run | trust | {"started": NOON, "versions": {"torch": "1"}}])
    rows = []
    for name, known in (("original", "original"), (variant, "int8")):
        figures = dict(FIGURES[known])
        disk, memory = SIZES[known]
        figures |= {"disk_mb": (disk, None, None), "memory_over_base_mb": (memory, None, None)}
        figures |= {"es_drop": (0.0, 0.0, 0.0) if known == "original" else (1.0, -1.0, 3.0)}
        label = "baseline" if known == "original" else "repaired"
        rows += [
            run
            | {"variant": name, "label": label, "metric": metric, "time": NOON, "metric_version": 1}
            | dict(zip(("value", "lo", "hi"), values, strict=True))
            for metric, values in figures.items()
        ]
    store.append("measurements", rows)
    store.append(
        "predictions",
        [
            run_of
            | {"sample": sample, "target": f"x = {sample}", "prediction": f"x = {sample * right}"}
            | {"es": 100 if sample * right == sample else 50, "em": sample * right == sample}
            for run_of, right in (
                ({"run": "r1", "host": "box", "variant": "original"}, 1),
                ({"run": "r1", "host": "box", "variant": variant}, 0),
            )
            for sample in (0, 1)
        ],
    )
