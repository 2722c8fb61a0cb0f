"""What an artifact's provenance says of it, and what only of its ancestors."""

from datetime import UTC, datetime
from typing import Any

import pytest

from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore, Provenance
from slimline.tasks.measurement.rounds import note_measurements


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


def test_a_teachers_training_is_not_the_students(store: ArtifactStore) -> None:
    student, teacher = publish(store, "model", [], train_loss=3.0), publish(store, "model", [], train_loss=1.0)
    assert noted(publish(store, "model", [student, teacher]), store) == {"train_loss": 3.0}
