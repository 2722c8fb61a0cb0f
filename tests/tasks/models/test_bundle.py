"""Models that ship with slimline, as a study made them."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore, Provenance
from slimline.storage.metrics.store import MetricsStore
from slimline.tasks.models.bundle import bundle
from slimline.tasks.models.loading import load_gpt2, save_gpt2
from slimline.tasks.models.packed import is_packed, load_dense
from slimline.tasks.quantization.weight_only import quantize_weights
from slimline.tasks.specs import WeightOnly
from slimline.tasks.training.xtc import round_in_training, settle

TRAINING = {
    "tokens": 5120,
    "minutes": 1.5,
    "steps": 10,
    "dev_bits_per_byte_before": 0.9,
    "dev_bits_per_byte": 0.7,
    "trained_on": ["a GPU"],
    "loss_curve": [[0.5, 4.0], [1.5, 3.0]],
}


def publish(store: ArtifactStore, step: str, inputs: list[ArtifactRef], files: Path, **notes: object) -> ArtifactRef:
    with store.stage() as directory:
        for path in files.iterdir():
            (directory / path.name).write_bytes(path.read_bytes())
        (directory / "step").write_text(step)  # the same files would be the same artifact
        provenance = Provenance.model_validate(
            {
                "step": {"step": step},
                "inputs": inputs,
                "versions": {},
                "host": "here",
                "created": datetime.now(UTC),
                "seconds": 2.0,
                "notes": notes,
            }
        )
        return store.publish(directory, "packed" if step == "weight-only" else "model", provenance)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=16)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "tokenizer.json").write_text("{}")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("packed", [False, True])
def test_a_form_ships_as_it_is_packed_or_in_half_precision(packed: bool, checkpoint: Path, tmp_path: Path) -> None:
    source = ArtifactStore(tmp_path / "store")
    base = publish(source, "base", [], checkpoint)
    trained = publish(source, "distill", [base], checkpoint, **TRAINING)
    if packed:
        quantize_weights(checkpoint, tmp_path / "packed", WeightOnly(), tmp_path)
        trained = publish(source, "weight-only", [trained], tmp_path / "packed", weight_bits=8)
    shipped = tmp_path / "shipped"
    ref = bundle(str(trained), source, MetricsStore(tmp_path / "metrics"), shipped, "small")
    store = ArtifactStore(shipped)
    notes = store.provenance(ref).notes
    assert [step["step"] for step in notes["recipe"]] == ["distill"] + ["weight-only"] * packed  # type: ignore[index, union-attr]
    assert notes["precision"] == ("8-bit integers" if packed else "half precision")
    assert notes["parameters"] == sum(weight.numel() for weight in load_dense(checkpoint).parameters())
    before, after = (load_dense(path).transformer.wte.weight for path in (checkpoint, store.path(ref)))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-3)
    card = (shipped / "README.md").read_text()
    assert "10 steps, 5,120 tokens" in card and "0.900 -> 0.700 bits per byte" in card and "a GPU" in card


@pytest.mark.parametrize(("bits", "table_bits"), [(1, 1), (2, 2), (2, 8)])
def test_a_form_of_few_bits_ships_in_these_bits(bits: int, table_bits: int, checkpoint: Path, tmp_path: Path) -> None:
    model = load_gpt2(checkpoint)
    round_in_training(model, bits, table_bits)
    settle(model)
    save_gpt2(model, checkpoint, tmp_path / "settled")
    source = ArtifactStore(tmp_path / "store")
    base = publish(source, "base", [], checkpoint)
    notes = {"trained_bits": bits, "table_bits": table_bits}
    trained = publish(source, "xtc", [base], tmp_path / "settled", **TRAINING, **notes)
    ref = bundle(str(trained), source, MetricsStore(tmp_path / "metrics"), tmp_path / "shipped", "small")
    files = ArtifactStore(tmp_path / "shipped").path(ref)
    assert ref.kind == "packed" and is_packed(files)
    stored = (files / "packed.safetensors").stat().st_size
    assert stored < 0.15 * (tmp_path / "settled" / "model.safetensors").stat().st_size + 3000
    for (name, weight), other in zip(model.named_parameters(), load_dense(files).parameters(), strict=True):
        if weight.ndim == 2:
            assert torch.equal(weight, other), name
