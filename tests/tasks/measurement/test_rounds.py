"""What an artifact's provenance says of it, and what only of its ancestors; and what a variant's turns are asked."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore, Provenance
from slimline.storage.metrics.metric import METRICS
from slimline.tasks.data.tokenizer import load_tokenizer, stop_ids
from slimline.tasks.measurement.completions import prompts_of
from slimline.tasks.measurement.peaks import Peaks
from slimline.tasks.measurement.probe import ProbeRequest, ProbeResult, Timing
from slimline.tasks.measurement.roofline import ModelWork
from slimline.tasks.measurement.rounds import all_notes, note_measurements, speed_request
from slimline.tasks.measurement.score import score_pairs
from slimline.tasks.measurement.size import DiskSize, Parameters
from slimline.tasks.measurement.summary import (
    Turn,
    limit_measurements,
    quality_measurements,
    round_row,
    size_measurements,
    speed_measurements,
)
from slimline.tasks.runtime.host import usable_cpus
from slimline.tasks.specs import Decoding, Engine, MeasurementSettings
from tests.tasks.bpe_models import write_bpe_model


@pytest.fixture
def store(tmp_path: Any) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def publish(store: ArtifactStore, kind: str, inputs: list[ArtifactRef], **notes: Any) -> ArtifactRef:
    made = Provenance(
        step={"step": kind}, inputs=inputs, versions={}, host="h", created=datetime.now(UTC), seconds=0, notes=notes
    )
    with store.stage() as directory:
        (directory / "file").write_text(f"{kind} {inputs} {notes}")
        return store.publish(directory, kind, made)


def noted(artifact: ArtifactRef, store: ArtifactStore) -> dict[str, float | None]:
    return {each.metric: each.value for each in note_measurements("v", artifact, store)}


def test_training_is_inherited_and_what_conversions_found_is_not(store: ArtifactStore) -> None:
    base = publish(store, "model", [], train_loss=3.0, train_tokens_per_s=9)
    int8 = publish(store, "model", [base], matmuls=25, int8_matmuls=25, parity_max_abs=0.5, greedy_agreement=0.8)
    graph = publish(store, "onnx", [int8], matmuls=25, parity_max_abs=1e-5, parity_bound=None, opset=21)
    assert noted(graph, store) == {
        **{"train_loss": 3.0, "train_tokens_per_s": 9.0},
        **{"matmuls": 25.0, "parity_max_abs": 1e-5},
    }
    assert noted(int8, store)["greedy_agreement"] == 0.8
    tuned = publish(store, "model", [int8], train_loss=2.0)
    assert noted(tuned, store) == {"train_loss": 2.0, "train_tokens_per_s": 9.0}


def test_of_very_many_generations_the_nearest_note_counts(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, refs, known = 1500, [], {}
    first = store.provenance(publish(store, "model", []))
    for number in range(count):
        notes = {f"note{number % 7}": number}
        refs.append(ArtifactRef(kind="model", digest=f"{number:064x}"))
        known[refs[-1]] = first.model_copy(update={"inputs": refs[-2:-1], "notes": notes})
    monkeypatch.setattr(store, "provenance", known.__getitem__)
    assert all_notes(refs[-1], store) == {f"note{number % 7}": number for number in range(count - 7, count)}


def test_a_teachers_training_is_not_the_students(store: ArtifactStore) -> None:
    student, teacher = publish(store, "model", [], train_loss=3.0), publish(store, "model", [], train_loss=1.0)
    assert noted(publish(store, "model", [student, teacher]), store) == {"train_loss": 3.0}


def test_every_metric_is_measured_by_something_and_what_is_measured_has_a_definition(store: ArtifactStore) -> None:
    timing = Timing(latency_s=1.0, prefill_s=0.5, decode_s=0.5, prompt_tokens=9, new_tokens=9, decode_passes=8)
    memory = {"memory_mb": 9.0, "memory_over_base_mb": 4.0, "base_mb": 5.0, "energy_j": 2.0, "load_s": 1.0}
    now = datetime.now(UTC)
    result = ProbeResult(pid=1, started=now, finished=now, wall_s=1.0, timings=[timing], **memory)
    rounds = [round_row(Turn("r", "h", 1, replicate, "original", replicate), result) for replicate in (0, 1)]
    rates = {"fp32_gflops": 1.0, "bf16_gflops": None, "int8_gops": 1.0, "read_gb_s": 1.0}
    peaks = Peaks(fingerprint="f", cpu="c", threads=1, measured=now, versions={}, kernels={}, **rates)
    notes = {"train_tokens_per_s": 9, "train_loss": 3.0, "dev_loss": 3.0, "parity_max_abs": 0.1}
    notes |= {"greedy_agreement": 0.9, "int8_matmuls": 1, "matmuls": 2, "opset": 21}
    measurements = [
        *speed_measurements(rounds, "original"),
        *limit_measurements(rounds, "original", ModelWork(1.0, 1.0, 1.0, 1.0, 1.0, "int8"), peaks, beams=1),
        *quality_measurements({"original": score_pairs([("a", "a")])}, "original"),
        *size_measurements("original", DiskSize(2.0, 1.0), Parameters(2, 1)),
        *note_measurements("original", publish(store, "model", [], **notes), store),
    ]
    assert sorted(each.metric for each in measurements) == sorted(METRICS)


CODE = ["x = 1\n", "def f ( x ) :\n    return x\n", "import os\nprint ( os . getcwd ( ) )\n"]


@pytest.mark.parametrize("decoding", [Decoding(max_new_tokens=4), Decoding(fixed_new_tokens=3)])
def test_one_request_serves_every_round(store: ArtifactStore, tmp_path: Path, decoding: Decoding) -> None:
    """It asks for the same as a request that is made in each turn, from the artifact and the texts, would."""
    model = write_bpe_model(tmp_path / "model")
    made = Provenance(step={}, inputs=[], versions={}, host="h", created=datetime.now(UTC), seconds=0)
    artifact = store.publish(model, "model", made)
    spec = MeasurementSettings(threads=1, warmup_samples=2, turn_seconds=0.5, decoding=decoding)
    engine = Engine(name="torch")
    request = speed_request(artifact, engine, CODE, spec, store)
    assert request == speed_request(artifact, engine, CODE, spec, store)
    assert request == ProbeRequest(
        directory=store.path(artifact),
        engine=engine,
        threads=1,
        cpus=tuple(usable_cpus()[:1]),
        prompts=prompts_of(store.path(artifact), CODE, decoding),
        stop=() if decoding.fixed_new_tokens else stop_ids(load_tokenizer(model)),
        decoding=decoding,
        mode="speed",
        warmup=2,
        least_s=0.5,
    )
    assert ProbeRequest.model_validate_json(request.model_dump_json()) == request
