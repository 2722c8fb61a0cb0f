"""int8 weights follow the host that measures: what was built with VNNI is refused without it."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore, Provenance
from slimline.tasks.measurement import saturation as module
from slimline.tasks.measurement.saturation import saturation

EIGHT = {"matmuls": 9, "int8_matmuls": 9, "weight_bits": 8}


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


@pytest.fixture(params=[7, 8])
def bits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """What the processor claims to add without saturation."""
    monkeypatch.setattr(module, "usable_weight_bits", lambda: request.param)
    return int(request.param)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "made"


def publish(store: ArtifactStore, directory: Path, kind: str, *inputs: ArtifactRef, **notes: object) -> ArtifactRef:
    directory.mkdir()
    (directory / "file").write_text(f"{kind} {notes}")
    now = datetime.now(UTC)
    made = Provenance(step={}, inputs=list(inputs), versions={}, host="h", created=now, seconds=0, notes=dict(notes))
    ref = store.publish(directory, kind, made)
    shutil.rmtree(directory, ignore_errors=True)
    return ref


@pytest.mark.parametrize("kind", ["onnx", "openvino", "ctranslate2"])
def test_eight_bits_need_vnni_in_every_form(kind: str, store: ArtifactStore, scratch: Path, bits: int) -> None:
    why = saturation(publish(store, scratch, kind, **EIGHT), store)
    assert (why is None) == (bits == 8)
    assert why is None or ("8 bits" in why and "weight_bits: 7" in why)


def test_seven_bits_products_in_floating_point_and_torch_are_right_everywhere(
    store: ArtifactStore, scratch: Path, bits: int
) -> None:
    seven = publish(store, scratch, "onnx", **EIGHT | {"weight_bits": 7})
    weight_only = publish(store, scratch, "model", **EIGHT | {"int8_matmuls": 0})
    torch = publish(store, scratch, "model", matmuls=9, int8_matmuls=9)  # it rounds activations to seven bits
    assert [saturation(ref, store) for ref in (seven, weight_only, torch)] == [None, None, None]


def test_what_was_made_of_a_saturating_one_saturates(store: ArtifactStore, scratch: Path, bits: int) -> None:
    """A step of a user's own may change an int8 graph without knowing of its bits."""
    changed = publish(store, scratch, "onnx", publish(store, scratch, "onnx", **EIGHT), note="mine")
    assert (saturation(changed, store) is None) == (bits == 8)
