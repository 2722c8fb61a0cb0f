"""A store with one run of two variants."""

from pathlib import Path

from slimline.storage.metrics.rows import RunRow
from slimline.storage.metrics.store import MetricsStore
from tests.storage.factories import measured, prediction_row, round_row, run_row

FIGURES: dict[str, dict[str, tuple[float, float | None, float | None]]] = {
    "original": {
        "speed_ratio": (1.0, None, None),
        "samples_per_s": (2.0, 1.9, 2.1),
        "es": (40.0, 38.0, 42.0),
        "es_drop": (0.0, 0.0, 0.0),
        "disk_mb": (30.0, None, None),
        "memory_over_base_mb": (400.0, None, None),
    },
    "int8": {
        "speed_ratio": (8.0, 7.5, 8.5),
        "speed_p_value": (0.001, None, None),
        "samples_per_s": (16.0, 15.0, 17.0),
        "es": (39.0, 37.0, 41.0),
        "es_drop": (1.0, -1.0, 3.0),
        "disk_mb": (10.0, None, None),
        "memory_over_base_mb": (100.0, None, None),
    },
}


def small_run(run: str = "r1", **values: object) -> RunRow:
    """A run of two samples."""
    return run_row(run, **({"samples": 2, "versions": {"torch": "1"}} | values))


def fill(root: Path, variant: str = "int8") -> None:
    """Write a run of the baseline and of one other variant, which is faster and smaller, and may be as good."""
    store = MetricsStore(root)
    store.append([small_run()])
    store.append(
        [
            measured(name, metric, value, lo=lo, hi=hi, label="baseline" if known == "original" else "repaired")
            for name, known in (("original", "original"), (variant, "int8"))
            for metric, (value, lo, hi) in FIGURES[known].items()
        ]
    )
    ratios = {"original": (1.01, 0.99, 1.0), variant: (8.0, 7.8, 8.2)}
    store.append(
        [
            round_row(name, number, replicate=int(name == "original"), pair_ratio=ratio)
            for name, found in ratios.items()
            for number, ratio in enumerate(found, start=1)
        ]
    )
    predictions = [("original", 0, 0), ("original", 1, 1), (variant, 0, 0), (variant, 1, 0)]
    store.append(
        [
            prediction_row(
                name,
                sample,
                target=f"x = {sample}",
                prediction=f"x = {answer}",
                es=100 if answer == sample else 50,
                em=answer == sample,
            )
            for name, sample, answer in predictions
        ]
    )
