"""Training in weights of two or three values, and what is executed of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2LMHeadModel

from slimline.tasks.engines.base import load_engine
from slimline.tasks.export.onnx_export import export_onnx
from slimline.tasks.measurement.size import count_parameters
from slimline.tasks.models.checkpoint import CheckpointError
from slimline.tasks.models.loading import load_gpt2, save_gpt2
from slimline.tasks.pruning.layers import evenly_spaced, reduce_layers
from slimline.tasks.quantization.onnx_low_bit import quantize_onnx_low_bit
from slimline.tasks.specs import Engine, OnnxLowBit, ReduceLayers, Xtc
from slimline.tasks.training.xtc import round_in_training, round_tokens, round_weights, settle, straight_through, xtc

# The teacher has random weights, so that it is the text that is learnt.
SPEC = Xtc(minutes=10, max_steps=24, window=64, batch_size=2, teacher_share=0.0)
PROMPT = [5, 1, 4, 1, 3, 2, 9, 30]


# ------------------------------------------------------------------------------------------------------------- rounding


def test_one_bit_by_hand() -> None:
    rounded = round_weights(torch.tensor([[1.0, -2.0, 3.0, 0.0]]), 1, axis=1)
    torch.testing.assert_close(rounded, torch.tensor([[1.5, -1.5, 1.5, 1.5]]))


def test_ternary_by_hand() -> None:
    # The mean of |w| is 1.5, so that 1.0 is below 0.7 of it; the scale is the mean of 2 and 3.
    rounded = round_weights(torch.tensor([[1.0, -2.0, 3.0, 0.0]]), 2, axis=1)
    torch.testing.assert_close(rounded, torch.tensor([[0.0, -2.5, 2.5, 0.0]]))


@given(st.integers(0, 10**6))
def test_no_other_scale_of_the_signs_is_nearer_than_one_bits(seed: int) -> None:
    weight = torch.randn(3, 17, generator=torch.Generator().manual_seed(seed))
    error = (round_weights(weight, 1, axis=1) - weight).square().sum(1)
    for factor in (0.9, 1.1):
        assert ((round_weights(weight, 1, axis=1) * factor - weight).square().sum(1) >= error).all()


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_what_is_rounded_stays_as_it_is(bits: int) -> None:
    once = round_weights(torch.randn(4, 32, generator=torch.Generator().manual_seed(0)), bits, axis=0)
    torch.testing.assert_close(round_weights(once, bits, axis=0), once)


def test_the_gradient_passes_the_rounding() -> None:
    weight = torch.randn(3, 5, requires_grad=True)
    straight_through(weight, round_weights(weight, 1, axis=1)).sum().backward()
    torch.testing.assert_close(weight.grad, torch.ones(3, 5))


def test_tokens_have_their_own_scales() -> None:
    tokens = torch.tensor([[127.0, 1.4, 0.0], [0.0127, 0.0001, 0.0]])
    torch.testing.assert_close(round_tokens(tokens), torch.tensor([[127.0, 1.0, 0.0], [0.0127, 0.0001, 0.0]]))


def test_rows_of_zeros_stay_zero() -> None:
    for bits in (1, 2, 8):
        assert not round_weights(torch.zeros(2, 4), bits, axis=1).any()
    assert not round_tokens(torch.zeros(2, 4)).any()


# ------------------------------------------------------------------------------------------------------- layers to keep


def test_layers_are_kept_as_distilbert_keeps_them() -> None:
    assert evenly_spaced(6, 12) == [0, 2, 4, 7, 9, 11]
    assert evenly_spaced(3, 6) == [0, 2, 5]
    assert evenly_spaced(1, 5) == [0]
    assert evenly_spaced(5, 5) == [0, 1, 2, 3, 4]


def test_the_kept_layers_are_the_models_own(bpe_model_dir: Path, tmp_path: Path) -> None:
    notes = reduce_layers(bpe_model_dir, tmp_path, ReduceLayers())
    before, after = load_gpt2(bpe_model_dir), load_gpt2(tmp_path)
    assert notes == {"layers": [0]} and after.config.n_layer == 1
    for own, other in zip(after.transformer.h[0].parameters(), before.transformer.h[0].parameters(), strict=True):
        assert torch.equal(own, other)


def test_more_layers_than_the_model_has_are_refused(bpe_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"layers: 3, but the model has 2; allowed: 1 to 2"):
        reduce_layers(bpe_model_dir, tmp_path, ReduceLayers(layers=3))


# ---------------------------------------------------------------------------------------------- what is made of a model


@pytest.fixture(scope="module", params=[(1, None), (2, None), (2, 8)], ids=["1 bit", "ternary", "ternary, int8 tables"])
def trained(request, bpe_model_dir: Path, bpe_slice_dir: Path, tmp_path_factory) -> tuple[Xtc, Path, dict]:
    bits, table_bits = request.param
    spec = SPEC.model_copy(update={"bits": bits, "table_bits": table_bits})
    target = tmp_path_factory.mktemp("xtc")
    notes = xtc(spec, bpe_model_dir, bpe_model_dir, bpe_slice_dir, target, tmp_path_factory.mktemp("work"))
    return spec, target, notes


def test_the_checkpoint_has_only_the_values_that_the_bits_allow(trained: tuple[Xtc, Path, dict]) -> None:
    spec, directory, _ = trained
    model = GPT2LMHeadModel.from_pretrained(directory)  # a stock checkpoint
    allowed = {1: 2, 2: 3, 8: 255}
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            is_table = name in ("transformer.wte.weight", "transformer.wpe.weight")
            rows = weight.detach() if is_table else weight.detach().T  # a token's, or an output's
            bits = (spec.table_bits or spec.bits) if is_table else spec.bits
            assert max(len(row.unique()) for row in rows) <= allowed[bits], name


def test_training_in_low_bits_learns(trained: tuple[Xtc, Path, dict]) -> None:
    _, _, notes = trained
    assert notes["dev_loss"] < notes["dev_loss_before"]


def test_the_graph_computes_what_was_trained(trained: tuple[Xtc, Path, dict], tmp_path: Path) -> None:
    spec, directory, _ = trained
    export_onnx(directory, tmp_path / "graph")
    notes = quantize_onnx_low_bit(tmp_path / "graph", tmp_path / "packed", OnnxLowBit())
    assert notes["int8_matmuls"] == notes["matmuls"] == 9
    model = load_gpt2(directory)
    round_in_training(model, spec.bits, spec.table_bits or spec.bits)
    with torch.no_grad():
        expected = model(torch.tensor([PROMPT])).logits[0, -1].numpy()
    found = load_engine(Engine(name="onnxruntime"), tmp_path / "packed", 1).logits(PROMPT)
    is_rounded_again = notes["weight_bits"] == 7  # tables of 8 bits, on a processor without VNNI
    np.testing.assert_allclose(found, expected, atol=(3e-2 if is_rounded_again else 2e-3) * np.abs(expected).max())


def test_weights_are_packed_in_the_file(trained: tuple[Xtc, Path, dict], tmp_path: Path) -> None:
    spec, directory, _ = trained
    export_onnx(directory, tmp_path / "graph")
    notes = quantize_onnx_low_bit(tmp_path / "graph", tmp_path / "packed", OnnxLowBit(weight_bits=7))
    graph = onnx.load_model(tmp_path / "packed" / "model.onnx")
    stored = sum(len(each.raw_data) for each in graph.graph.initializer if each.name.endswith((".packed", ".int8")))
    weights = count_parameters(directory).total
    bits_a_weight = 8 * stored / weights
    assert bits_a_weight == pytest.approx({None: {1: 1.0, 2: 1.6}[spec.bits], 8: 5.5}[spec.table_bits], rel=0.2)
    assert notes["weight_bits"] == (7 if spec.table_bits == 8 else spec.bits)


def test_a_model_of_other_weights_is_refused(bpe_model_dir: Path, tmp_path: Path) -> None:
    export_onnx(bpe_model_dir, tmp_path / "graph")
    with pytest.raises(CheckpointError, match=r"h\.0\.attn\.c_attn\.weight has more than three values"):
        quantize_onnx_low_bit(tmp_path / "graph", tmp_path / "packed", OnnxLowBit())
    assert not (tmp_path / "packed").exists()


def test_a_settled_model_computes_what_it_computed_in_training(bpe_model_dir: Path, tmp_path: Path) -> None:
    model = load_gpt2(bpe_model_dir)
    round_in_training(model, 2, 8)
    ids = torch.tensor([PROMPT])
    with torch.no_grad():
        before = model(ids).logits
        settle(model)
        after = model(ids).logits
    torch.testing.assert_close(after, before, rtol=0, atol=1e-2 * float(before.abs().max()))  # scales in fp16
    save_gpt2(model, bpe_model_dir, tmp_path)
    assert load_gpt2(tmp_path).config.tie_word_embeddings
