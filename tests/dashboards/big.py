"""A store with a million measurements: two years of runs on three hosts, as the nightly flow would leave them."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from slimline.storage.metrics.metric import METRICS, TABLE_METRICS
from slimline.storage.metrics.rows import MeasurementRow, PredictionRow, RunRow, VerdictRow
from slimline.storage.metrics.schema import arrow_schema
from slimline.storage.metrics.store import MetricsStore

MEASUREMENTS = int(os.environ.get("BIG_MEASUREMENTS", "1_000_000"))
STUDIES = ("embedded", "paper", "compression")
HOSTS = ("laptop", "cluster", "desk")
VARIANTS = {
    "original": "baseline",
    "pruned": "as published",
    "quantized": "as published",
    "onnx": "as published",
    **dict.fromkeys(("int8", "slim", "slim-int8", "openvino-int8", "ctranslate2-int8", "int4"), "repaired"),
    **dict.fromkeys(("int8-lookup", "distilled"), "ours"),
}
LEVELS = {"es": 50.0, "em": 20.0, "es_drop": 1.0, "em_drop": 1.0, "em_p_value": 0.2, "speed_ratio": 3.0}
START, EVERY = datetime(2025, 1, 1, 3, tzinfo=UTC), timedelta(hours=14)
SAMPLES, PREDICTED_RUNS = 100, 6
_PER_HOST = len(TABLE_METRICS) * len(VARIANTS)
RUNS = -(-MEASUREMENTS // (_PER_HOST * len(HOSTS)))


def fill(root: Path) -> None:
    """Write the tables below `root`, a month's rows in one file, as merging leaves them."""
    _write(root, _measurements())
    store = MetricsStore(root)
    store.append([_run(number, host) for number in range(RUNS) for host in HOSTS])
    store.append([row for number in range(RUNS - PREDICTED_RUNS, RUNS) for row in _predictions(number)])
    store.append([_verdict()])


def name_of(number: int) -> str:
    """A run's identifier."""
    return f"{_started(number):%Y%m%dT%H%M%S}-{STUDIES[number % len(STUDIES)]}"


def _started(number: int) -> datetime:
    return START + number * EVERY


def _measurements() -> pa.Table:
    row = np.arange(MEASUREMENTS)
    place, metric = row // _PER_HOST, row % len(TABLE_METRICS)
    run, host, variant = place // len(HOSTS), place % len(HOSTS), row % _PER_HOST // len(TABLE_METRICS)
    chance = np.random.default_rng(0)
    levels = np.array([LEVELS.get(name, 30.0) for name in TABLE_METRICS])
    value = levels[metric] * (1 + 0.1 * variant) * (1 + 0.3 * host) * (1 + chance.normal(0, 0.02, len(row)))
    value *= np.where(run > RUNS // 2, 0.9, 1.0)  # the regression that `_verdict` tells of
    texts = {
        "run": ([name_of(number) for number in range(RUNS)], run),
        "study": (STUDIES, run % len(STUDIES)),
        "host": (HOSTS, host),
        "variant": (list(VARIANTS), variant),
        "label": (list(VARIANTS.values()), variant),
        "metric": (TABLE_METRICS, metric),
    }
    times = pa.array([_started(number) for number in range(RUNS)], pa.timestamp("us", tz="UTC"))
    columns = {name: pa.array(options).take(pa.array(chosen)) for name, (options, chosen) in texts.items()}
    numbers = {"value": value, "lo": 0.97 * value, "hi": 1.03 * value, "n": np.full(len(row), 5)}
    columns |= {name: pa.array(values) for name, values in numbers.items()}
    columns |= {"time": times.take(pa.array(run)), "random_weights": pa.array(np.zeros(len(row), bool))}
    versions = np.array([METRICS[name].version for name in TABLE_METRICS])
    columns["metric_version"] = pa.array(versions[metric])
    schema = arrow_schema(MeasurementRow)
    return pa.table([columns.get(each.name, pa.nulls(len(row))).cast(each.type) for each in schema], schema=schema)


def _write(root: Path, rows: pa.Table) -> None:
    months = pc.strftime(rows["time"], "%Y-%m")
    for month in pc.unique(months):
        directory = root / "measurements" / f"month={month}"
        directory.mkdir(parents=True)
        pq.write_table(rows.filter(pc.equal(months, month)), directory / "merged.parquet", compression="zstd")


def _run(number: int, host: str) -> RunRow:
    started = _started(number)
    return RunRow(
        run=name_of(number),
        study=STUDIES[number % len(STUDIES)],
        host=host,
        baseline="original",
        started=started,
        finished=started + timedelta(hours=1),
        status="ok",
        rounds=5,
        samples=SAMPLES,
        noise_floor=0.02,
        tainted=number % 50 == 7,
        versions={"onnxruntime": "1.31.1" if number > RUNS // 2 else "1.30.0", "torch": "2.13.0"},
    )


def _predictions(number: int) -> list[PredictionRow]:
    return [
        PredictionRow(
            run=name_of(number),
            host=host,
            variant=variant,
            sample=sample,
            target=f"return <NUM_LIT:{sample}>",
            prediction=f"return <NUM_LIT:{sample}>" if sample % (2 + place) else "return self",
            es=100 if sample % (2 + place) else 40,
            em=bool(sample % (2 + place)),
        )
        for host in HOSTS
        for place, variant in enumerate(VARIANTS)
        for sample in range(SAMPLES)
    ]


def _verdict() -> VerdictRow:
    changed = next(number for number in range(RUNS // 2 + 1, RUNS) if STUDIES[number % len(STUDIES)] == STUDIES[0])
    return VerdictRow(
        run=name_of(changed + 3),
        study=STUDIES[0],
        host=HOSTS[0],
        variant="original",
        metric="samples_per_s",
        time=_started(changed + 3),
        verdict="regression",
        ratio=0.9,
        change_point=name_of(changed),
        change_time=_started(changed),
        reason="slower by 10 % since that run",
    )
