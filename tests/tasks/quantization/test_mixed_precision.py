"""Mixed precision and groups of channels: exact where they claim it, nearer than 8 bits, refused if impossible."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from slimline.tasks.engines.base import load_engine
from slimline.tasks.export.onnx_export import Arithmetic, Gpt2Graph, export_onnx, write_export
from slimline.tasks.models.checkpoint import CheckpointError, read_gpt2_config
from slimline.tasks.quantization.calibration import Range, extremes, observe, windows_for
from slimline.tasks.quantization.onnx_group_int8 import group_ranges, quantize_groups, sort_channels
from slimline.tasks.quantization.onnx_int8 import exported_weights
from slimline.tasks.quantization.onnx_mixed_precision import quantize_mixed_precision
from slimline.tasks.quantization.sensitivity import sensitivities
from slimline.tasks.specs import Engine, MpPtq, PegPtq
from tests.tasks.gpt2_models import random_gpt2
from tests.tasks.tiny import write_slice

PROMPTS = [[token, token + 1, 7, 30, 12, 3] for token in range(3, 40)]
TENSORS = 2 * 4 + 1


def errors(directory: Path, reference: Path) -> float:
    """Mean absolute difference of logits."""
    ours, theirs = (load_engine(Engine(name="onnxruntime"), each, 1) for each in (directory, reference))
    return float(np.mean([np.abs(ours.logits(p) - theirs.logits(p)).mean() for p in PROMPTS]))


def mixed(words: Path, target: Path, share: float) -> dict:
    return quantize_mixed_precision(words / "onnx", target, MpPtq(calibration_samples=8, sensitive_share=share), words)


def grouped(words: Path, target: Path, groups: int) -> dict:
    return quantize_groups(words / "onnx", target, PegPtq(calibration_samples=8, groups=groups), words)


# ------------------------------------------------------------------------------------------------------ mixed precision


def test_more_tensors_of_16_bits_are_nearer_to_fp32(words: Path, tmp_path: Path) -> None:
    found = [errors_of(words, tmp_path / str(share), share) for share in (0.0, 0.2, 1.0)]
    assert found[0] > 1.2 * found[1] and found[1] > found[2]


def errors_of(words: Path, target: Path, share: float) -> float:
    mixed(words, target, share)
    return errors(target, words / "onnx")


def test_notes_say_what_has_16_bits_and_why(words: Path, tmp_path: Path) -> None:
    notes = mixed(words, tmp_path, 0.2)
    table = notes["sensitivity"]
    divergences = [divergence for _, divergence, _ in table]
    assert len({tensor for tensor, _, _ in table}) == TENSORS and divergences == sorted(divergences, reverse=True)
    assert [bits for _, _, bits in table] == [16, 16] + [8] * (TENSORS - 2)  # a fifth of nine, rounded up
    assert notes["int8_matmuls"] == notes["matmuls"] == TENSORS + 2  # two products for each
    assert min(divergences) >= 0


def test_the_input_with_the_large_channel_is_the_most_sensitive(words: Path, tmp_path: Path) -> None:
    table = mixed(words, tmp_path, 0.1)["sensitivity"]
    assert table[0][0].endswith("attn.c_attn")


def test_sensitivity_is_that_of_the_tensor_alone(words: Path) -> None:
    config, weights = read_gpt2_config(words / "onnx"), exported_weights(words / "onnx")
    windows = windows_for(config, words / "onnx", words, 2, "count")
    found = extremes(observe(config, weights, windows))
    fine = {name: Range(float(np.abs(each).max()) / 120, 128) for name, each in found.items()}
    coarse = fine | {"h.1.mlp.c_fc": Range(fine["h.1.mlp.c_fc"].scale * 40, 128)}
    before, after = (
        {each.tensor: each.divergence for each in sensitivities(config, weights, ranges, windows)}
        for ranges in (fine, coarse)
    )
    changed = {name for name in before if not np.isclose(before[name], after[name], rtol=1e-6)}
    assert changed == {"h.1.mlp.c_fc"} and after["h.1.mlp.c_fc"] > 10 * before["h.1.mlp.c_fc"]


def test_16_bits_cost_no_bytes_of_weights(words: Path, tmp_path: Path) -> None:
    wide, narrow = (mixed(words, tmp_path / str(share), share)["times_smaller"] for share in (1.0, 0.0))
    assert wide == narrow == pytest.approx(4 * 32 / (32 + 4), rel=0.1)  # rows of 32 with a scale in fp32


# --------------------------------------------------------------------------------------------------- groups of channels


def test_sorted_channels_change_no_logit(words: Path, tmp_path: Path) -> None:
    config, weights = read_gpt2_config(words / "onnx"), exported_weights(words / "onnx")
    found = extremes(observe(config, weights, windows_for(config, words / "onnx", words, 4, "count")))
    changed = sort_channels(config, weights, found)
    write_export(Gpt2Graph(config, Arithmetic(changed)).build(), words / "onnx", tmp_path)
    assert errors(tmp_path, words / "onnx") < 1e-4
    for name in ("wte.weight", "h.1.attn.c_attn.weight", "h.0.mlp.c_proj.weight", "h.0.ln_1.weight"):
        assert not np.array_equal(changed(name), weights(name))
        np.testing.assert_array_equal(np.sort(changed(name), axis=None), np.sort(weights(name), axis=None))


def test_channels_are_sorted_by_their_range(words: Path) -> None:
    config, weights = read_gpt2_config(words / "onnx"), exported_weights(words / "onnx")
    windows = windows_for(config, words / "onnx", words, 4, "count")
    changed = sort_channels(config, weights, extremes(observe(config, weights, windows)))
    spans = {name: np.ptp(each, axis=0) for name, each in extremes(observe(config, changed, windows)).items()}
    assert (np.diff(spans["h.0.mlp.c_proj"]) >= -1e-4).all()
    assert spans["h.0.attn.c_attn"].argmax() == 31  # the channel that is 30 times too large is the last one
    heads = spans["h.1.attn.c_proj"].reshape(config["n_head"], -1)
    assert (np.diff(heads, axis=1) >= -1e-4).all() and (np.diff(heads.max(axis=1)) >= -1e-4).all()


def test_groups_save_the_small_channels_from_the_large_one(words: Path, tmp_path: Path) -> None:
    found = []
    for groups in (1, 4, 8):
        notes = grouped(words, tmp_path / str(groups), groups)
        assert notes["int8_matmuls"] == notes["matmuls"] == groups * TENSORS
        found.append(errors(tmp_path / str(groups), words / "onnx"))
    assert found[0] > 1.4 * max(found[1:])


def test_groups_keep_one_copy_of_the_weights(words: Path, tmp_path: Path) -> None:
    grouped(words, tmp_path / "1", 1)
    grouped(words, tmp_path / "8", 8)
    sizes = [
        sum(
            np.prod(each.dims)
            for each in onnx.load_model(tmp_path / name / "model.onnx").graph.initializer
            if each.data_type == onnx.TensorProto.INT8
        )
        for name in "18"
    ]
    assert sizes[0] == sizes[1] == 2 * 12 * 32 * 32 + (51 + 32) * 32


def test_groups_have_ranges_of_their_own() -> None:
    tensor = np.tile(np.array([1.0, 1.0, 100.0, 100.0], np.float32), (50, 1)) * np.linspace(-1, 1, 50)[:, None]
    (ranges,) = group_ranges(lambda: [{"a": tensor.astype(np.float32)}], 2).values()
    assert [each.scale for each in ranges] == pytest.approx([2 / 255, 200 / 255], rel=0.3)


def test_a_head_of_its_own_is_grouped_and_mixed_too(words: Path, tmp_path: Path) -> None:
    model = random_gpt2(vocab_size=51, n_positions=32, tie_word_embeddings=False)
    model.save_pretrained(tmp_path / "model")
    shutil.copyfile(words / "model" / "tokenizer.json", tmp_path / "model" / "tokenizer.json")
    export_onnx(tmp_path / "model", tmp_path / "onnx")
    for name, quantize, spec in (
        ("peg", quantize_groups, PegPtq(calibration_samples=4)),
        ("mp", quantize_mixed_precision, MpPtq(calibration_samples=4, sensitive_share=1.0)),
    ):
        quantize(tmp_path / "onnx", tmp_path / name, spec, words)
        before, after = (load_engine(Engine(name="onnxruntime"), tmp_path / each, 1) for each in ("onnx", name))
        assert np.corrcoef(before.logits([3, 4, 5]), after.logits([3, 4, 5]))[0, 1] > 0.98


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("groups", [3, 64])
def test_groups_that_do_not_divide_the_width_are_refused(words: Path, tmp_path: Path, groups: int) -> None:
    with pytest.raises(ValueError, match=f"peg-ptq.groups: {groups} .*n_embd 32.*1, 2, 4, 8, 16, 32"):
        grouped(words, tmp_path / "peg", groups)
    assert not (tmp_path / "peg").exists()


@pytest.mark.parametrize(
    ("quantize", "spec"), [(quantize_mixed_precision, MpPtq()), (quantize_groups, PegPtq())], ids=["mp-ptq", "peg-ptq"]
)
def test_too_little_to_calibrate_with_is_refused(words: Path, tmp_path: Path, quantize, spec) -> None:
    write_slice(tmp_path, train_files=3)
    with pytest.raises(ValueError, match=f"{spec.step}.calibration_samples: 64 windows .* only 3"):
        quantize(words / "onnx", tmp_path / "out", spec, tmp_path)
    with pytest.raises(CheckpointError, match="export-onnx"):
        quantize(words / "model", tmp_path / "out", spec, words)
    assert not (tmp_path / "out").exists()
