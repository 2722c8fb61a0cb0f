"""A host measures an order for stores on a real S3 server: requests that list cost most there."""

import json
import shutil
import subprocess
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from slimline.flows.config.study import parse_study
from slimline.flows.run import Order
from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore, Provenance
from slimline.storage.metrics.store import MetricsStore
from slimline.storage.queries.results import result_rows
from slimline.tasks.data.parquet import write_rows
from slimline.tasks.data.samples import Sample
from slimline.tasks.export.onnx_export import export_onnx
from slimline.tasks.quantization.onnx_int8 import quantize_onnx
from tests.command import environment, program_command
from tests.flows.programs.measure_without_vnni import TOO_LOW
from tests.tasks.bpe_models import write_bpe_model

pytestmark = pytest.mark.e2e
PROGRAMS = Path(__file__).with_name("programs")
MEASURE = PROGRAMS / "measure_order.py"
MEASURE_WITHOUT_VNNI = PROGRAMS / "measure_without_vnni.py"
MOST_LISTINGS = 12
LINES = 8
ONNX = {"step": "engine", "name": "onnxruntime"}
COUNTS = """
SELECT (SELECT count(*) FROM rounds WHERE error IS NULL) AS rounds, (SELECT count(*) FROM predictions) AS lines,
    (SELECT count(DISTINCT variant) FROM measurements WHERE metric = 'es' AND value IS NOT NULL) AS scored,
    (SELECT count(*) FROM runs WHERE status = 'ok') AS runs, (SELECT count(*) FROM hosts) AS hosts
"""
STUDY = {
    "name": "tiny",
    "data": {"samples": 4},
    "control": "longer",
    "variants": {
        "longer": {"label": "control", "recipe": [{"step": "export-onnx"}, ONNX]},
        "original": {"label": "baseline", "recipe": [{"step": "export-onnx"}, ONNX]},
        "drafts": {"recipe": [{"step": "export-onnx"}, ONNX | {"draft_tokens": 2}]},
        "int8": {"recipe": [{"step": "export-onnx"}, {"step": "onnx-int8"}, ONNX]},
    },
    "measuring": {
        "rounds": 2,
        "speed_samples": 1,
        "pair_seconds": 0,
        "warmup_samples": 1,
        "threads": 1,
        "decoding": {"max_new_tokens": 4},
    },
}


def publish(store: ArtifactStore, directory: Path, kind: str, *inputs: ArtifactRef, **notes: object) -> ArtifactRef:
    now = datetime.now(UTC)
    made = Provenance(step={}, inputs=list(inputs), versions={}, host="h", created=now, seconds=0, notes=notes)
    return store.publish(directory, kind, made)


def build_order(store: ArtifactStore, directory: Path, weight_bits: int | None = None) -> Order:
    """Four variants of a tiny model, and some lines to complete; `int8` and the control are noted as trained on."""
    slice_dir, graph_dir, longer_dir, int8_dir = (directory / name for name in ("slice", "graph", "longer", "int8"))
    for each in (slice_dir, graph_dir, longer_dir, int8_dir):
        each.mkdir()
    model = write_bpe_model(directory / "model")
    other = write_bpe_model(directory / "other", n_layer=1, tie_word_embeddings=False)  # completes otherwise
    words = ["os", ".", "path", ".", "join", "(", "a", ",", "b", ")"]
    write_rows(
        slice_dir / "samples.parquet",
        [Sample(n, "a.py", "<s> import os <EOL> x =", " ".join(["=", *words[:n]])) for n in range(LINES)],
    )
    slice_, base = publish(store, slice_dir, "slice"), publish(store, model, "model")
    longer = publish(store, longer_dir, "onnx", base, tokens=9, **export_onnx(other, longer_dir))
    graph = publish(store, graph_dir, "onnx", base, **export_onnx(model, graph_dir))
    notes = quantize_onnx(graph_dir, int8_dir, per_channel=True, weight_bits=weight_bits)
    int8 = publish(store, int8_dir, "onnx", graph, tokens=9, **notes)
    artifacts = {"original": graph, "drafts": graph, "int8": int8, "longer": longer}
    now = datetime.now(UTC)
    study = parse_study(STUDY)
    return Order(run="r1", study=study, started=now, host="box", artifacts=artifacts, slice_=slice_)


def measure(order: Path, s3: str, home: Path, cache: Path) -> Counter[str]:
    """Measure on a host with that state and that cache of artifacts; the requests that listed, by prefix."""
    finished = subprocess.run(
        program_command(MEASURE, order),
        stdout=subprocess.PIPE,
        text=True,
        env=environment(home) | {"SLIMLINE_STORE": s3, "XDG_CACHE_HOME": str(cache)},
        check=True,
    )
    return Counter(json.loads(finished.stdout))


def assert_drops_are_against(metrics: MetricsStore, references: dict[str, str]) -> None:
    """Of what was trained on they are against the control, of the rest against the baseline."""
    found = metrics.query("SELECT variant, metric, value FROM measurements WHERE metric IN ('es', 'es_drop')")
    values = {(row["variant"], row["metric"]): row["value"] for row in found.to_pylist()}
    assert values["longer", "es"] != values["original", "es"]
    for variant, reference in (references | {"longer": "original"}).items():
        drop = values[reference, "es"] - values[variant, "es"]
        assert values[variant, "es_drop"] == pytest.approx(drop), variant
    rows = {row.variant: row.reference for row in result_rows(metrics, "tiny")}
    assert rows == references | {"longer": "original"}


@pytest.mark.long
def test_a_measurement_lists_the_store_a_few_times_and_a_second_one_measures_nothing(
    s3: str, prepared_home: Path, tmp_path: Path
) -> None:
    home = shutil.copytree(prepared_home, tmp_path / "home")
    order = tmp_path / "order.json"
    order.write_text(build_order(ArtifactStore(f"{s3}/artifacts"), tmp_path).model_dump_json())
    listings = measure(order, s3, home, tmp_path / "first")
    print(f"requests that list of one measurement: {listings.total()} {dict(listings)}")
    assert listings.total() <= MOST_LISTINGS

    metrics = MetricsStore(f"{s3}/metrics")
    (counts,) = metrics.query(COUNTS).to_pylist()
    assert counts == {"rounds": 2 * 5, "lines": 4 * LINES, "scored": 4, "runs": 1, "hosts": 1}
    assert_drops_are_against(metrics, {"original": "original", "drafts": "original", "int8": "longer"})

    before = metrics.files()
    again = measure(order, s3, home, tmp_path / "second")
    print(f"requests that list when everything is stored: {again.total()} {dict(again)}")
    assert metrics.files() == before
    copied = {path.name for path in (tmp_path / "second").glob("slimline/*/*")}
    assert copied <= {".staging", "files"}  # of measurements: no artifact was needed


class Measured(NamedTuple):
    """A measurement on a processor without VNNI whose kept peaks are far too low, and what it said."""

    metrics: MetricsStore
    peaks: Path
    said: str


@pytest.fixture(scope="module")
def measured(prepared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    directory = tmp_path_factory.mktemp("measured")
    home = shutil.copytree(prepared_home, directory / "home", ignore=shutil.ignore_patterns("peaks"))
    order = directory / "order.json"
    order.write_text(build_order(ArtifactStore(home / "artifacts"), directory, weight_bits=8).model_dump_json())
    finished = subprocess.run(
        program_command(MEASURE_WITHOUT_VNNI, order),
        env=environment(home),
        check=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    (peaks,) = (home / "peaks").glob("*.json")
    return Measured(MetricsStore(home / "metrics"), peaks, " ".join(finished.stderr.split()))


@pytest.mark.long
def test_weights_that_saturate_on_this_processor_are_not_measured(measured: Measured) -> None:
    metrics = measured.metrics
    (error,) = metrics.query("SELECT DISTINCT error FROM measurements WHERE variant = 'int8'").to_pylist()
    assert "8 bits" in error["error"] and "weight_bits: 7" in error["error"]
    found = metrics.query("SELECT DISTINCT variant FROM rounds UNION SELECT DISTINCT variant FROM predictions")
    assert {row["variant"] for row in found.to_pylist()} == {"original", "drafts", "longer"}
    (run,) = metrics.query("SELECT status, error FROM runs").to_pylist()
    assert run["status"] == "failed" and "8 bits" in run["error"]
    assert "int8 is not measured" in measured.said


@pytest.mark.long
def test_a_run_that_beats_a_peak_by_far_says_so_and_raises_it(measured: Measured) -> None:
    kept = json.loads(measured.peaks.read_text())
    assert kept["fp32_gflops"] > TOO_LOW and kept["kernels"]["fp32"].endswith("in a run")
    assert kept["int8_gops"] == TOO_LOW  # nothing was measured in int8
    assert "beyond the kept peak of 0.0 GFLOP/s" in measured.said
    shares = measured.metrics.query("SELECT max(value) AS most FROM measurements WHERE metric = 'prefill_limit_share'")
    assert shares.to_pylist()[0]["most"] <= 100.001
