"""Every kind of int8: what is quantized, how closely, and that the files alone give the same model back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from slimline.tasks.engines.base import CompletionEngine, load_engine
from slimline.tasks.export.onnx_export import Arithmetic, Gpt2Graph, export_onnx, write_export
from slimline.tasks.export.parity import logits_parity
from slimline.tasks.models.checkpoint import CheckpointError, read_gpt2_config
from slimline.tasks.models.int8_loading import load_quantized
from slimline.tasks.quantization import onnx_int8, onnx_static_int8
from slimline.tasks.quantization.dynamic_int8 import quantize_linear_only
from slimline.tasks.quantization.onnx_int8 import exported_weights, quantize_onnx, quantize_symmetric
from slimline.tasks.quantization.onnx_static_int8 import best_ranges, extremes, quantize_onnx_static, smooth
from slimline.tasks.specs import Decoding, Engine, EngineName, OnnxStaticInt8
from tests.command import run_program
from tests.tasks.gpt2_models import STOP, prompts, random_gpt2, save, trained_gpt2
from tests.tasks.tiny import write_slice

PROGRAMS = Path(__file__).with_name("programs")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(trained_gpt2(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    export_onnx(checkpoint, checkpoint / "onnx")
    return checkpoint / "onnx"


@pytest.mark.parametrize("per_channel", [True, False])
def test_every_matrix_of_the_graph_is_int8(
    per_channel: bool, checkpoint: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    notes = quantize_onnx(exported, tmp_path / "int8", per_channel)
    assert (notes["matmuls"], notes["int8_matmuls"]) == (9, 9)
    assert [path.name for path in tmp_path.iterdir()] == ["int8"]
    model = onnx.load_model(tmp_path / "int8" / "model.onnx")
    assert not {"Gemm", "MatMul", "FusedMatMul"} & {node.op_type for node in model.graph.node}
    assert elements(model, onnx.TensorProto.INT8) == 2 * 12 * 32 * 32 + (97 + 64) * 32
    assert elements(model, onnx.TensorProto.FLOAT) < 2200  # biases, norms and scales
    reference, other = load("torch", checkpoint), load("onnxruntime", tmp_path / "int8")
    parity = logits_parity(reference, other, prompts(8), new_tokens=1)
    assert 0 < parity.max_abs < 0.5
    assert parity.greedy_agreement > 0.7


def elements(model: onnx.ModelProto, kind: int) -> int:
    return sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer if tensor.data_type == kind)


def load(name: EngineName, directory: Path, drafts: int = 0) -> CompletionEngine:
    return load_engine(Engine(name=name, draft_tokens=drafts), directory, 1)


def test_int8_takes_a_byte_a_parameter(tmp_path: Path) -> None:
    model = random_gpt2(vocab_size=3000, n_embd=128, n_layer=3)
    export_onnx(save(model, tmp_path / "model"), tmp_path / "onnx")
    quantize_onnx(tmp_path / "onnx", tmp_path / "int8", per_channel=True)
    size = sum(path.stat().st_size for path in (tmp_path / "int8").iterdir() if path.name != "tokenizer.json")
    assert size < 1.06 * sum(weight.numel() for weight in model.parameters()) + 60_000


def test_a_head_of_its_own_is_int8_too(tmp_path: Path) -> None:
    directory = save(random_gpt2(tie_word_embeddings=False), tmp_path / "model")
    export_onnx(directory, tmp_path / "onnx")
    assert quantize_onnx(tmp_path / "onnx", tmp_path / "int8", per_channel=True)["int8_matmuls"] == 9
    expected, found = (
        load("torch", directory).logits([3, 4, 5]),
        load("onnxruntime", tmp_path / "int8").logits([3, 4, 5]),
    )
    assert np.corrcoef(expected, found)[0, 1] > 0.995


def test_int8_completions_do_not_depend_on_the_batch(exported: Path, tmp_path: Path) -> None:
    quantize_onnx(exported, tmp_path, per_channel=True)
    engine, batch, decoding = load("onnxruntime", tmp_path), prompts(7), Decoding(max_new_tokens=10)
    together = [completion.tokens for completion in engine.complete(batch, STOP, decoding)]
    assert together == [engine.complete([prompt], STOP, decoding)[0].tokens for prompt in batch]


def test_int8_gives_a_token_the_same_numbers_whatever_comes_after_it(exported: Path, tmp_path: Path) -> None:
    quantize_onnx(exported, tmp_path, per_channel=True)
    engine = load("onnxruntime", tmp_path)
    (prompt,) = prompts(1, seed=2)
    engine.logits(prompt[:2])
    together = engine._model.verify(np.array(prompt[2:]))  # type: ignore[attr-defined]
    for length, logits in enumerate(together.copy(), start=3):
        np.testing.assert_allclose(engine.logits(prompt[:length]), logits, atol=1e-5)


def test_drafts_change_no_token_of_an_int8_model(exported: Path, tmp_path: Path) -> None:
    quantize_onnx(exported, tmp_path, per_channel=True)
    plain, batch, decoding = load("onnxruntime", tmp_path), prompts(30, seed=4), Decoding(max_new_tokens=20)
    expected = [completion.tokens for completion in plain.complete(batch, STOP, decoding)]
    for drafts in (1, 5):
        drafting = load("onnxruntime", tmp_path, drafts)
        assert [completion.tokens for completion in drafting.complete(batch, STOP, decoding)] == expected


def test_without_vnni_weights_keep_to_seven_bits(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_int8, "usable_weight_bits", lambda: 7)
    assert quantize_onnx(exported, tmp_path, per_channel=True)["weight_bits"] == 7
    tensors = onnx.load_model(tmp_path / "model.onnx").graph.initializer
    assert quantize_onnx(exported, tmp_path / "eight", per_channel=True, weight_bits=8)["weight_bits"] == 8
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in tensors if tensor.name.endswith(".int8")]
    assert max(np.abs(weight).max() for weight in weights) == 63


def test_a_pruned_graph_stays_finite(tmp_path: Path) -> None:
    model = random_gpt2()
    model.transformer.h[0].mlp.c_fc.weight.data[:] = 0
    model.transformer.h[0].mlp.c_fc.bias.data[:] = 0
    model.transformer.h[1].attn.c_proj.weight.data[:, 3] = 0
    export_onnx(save(model, tmp_path / "model"), tmp_path / "onnx")
    quantize_onnx(tmp_path / "onnx", tmp_path / "int8", per_channel=True)
    assert np.isfinite(load("onnxruntime", tmp_path / "int8").logits([3, 4])).all()


def test_only_an_fp32_export_can_be_quantized(checkpoint: Path, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.onnx.*export-onnx"):
        quantize_onnx(checkpoint, tmp_path / "a", per_channel=True)
    quantize_onnx(exported, tmp_path / "int8", per_channel=True)
    with pytest.raises(CheckpointError, match="quantized"):
        quantize_onnx(tmp_path / "int8", tmp_path / "b", per_channel=True)
    (tmp_path / "int8" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match="ONNX"):
        quantize_onnx(tmp_path / "int8", tmp_path / "b", per_channel=True)


@given(st.integers(0, 1000), st.sampled_from([None, 0, 1]), st.sampled_from([63, 127]))
def test_rounding_errs_by_half_a_step_at_most(seed: int, axis: int | None, limit: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = (rng.normal(size=(6, 4)) * 10.0 ** rng.integers(-6, 6)).astype(np.float32)
    integers, scales = quantize_symmetric(matrix, axis, limit)
    assert scales.shape == {None: (), 0: (4,), 1: (6,)}[axis]
    steps = scales[:, None] if axis == 1 else scales
    assert np.abs(integers.astype(int)).max() == limit
    assert (np.abs(integers * steps - matrix) <= 0.5001 * steps).all()


def calibrated(words: Path, target: Path) -> dict[str, Any]:
    return quantize_onnx_static(words / "onnx", target, OnnxStaticInt8(calibration_samples=8), words)


def test_static_int8_is_int8_everywhere_and_close(words: Path, tmp_path: Path) -> None:
    notes = calibrated(words, tmp_path)
    assert notes == {"matmuls": 9, "int8_matmuls": 9, "weight_bits": notes["weight_bits"], "calibration_tokens": 256}
    model = onnx.load_model(tmp_path / "model.onnx")
    kinds = {node.op_type for node in model.graph.node}
    assert not {"MatMul", "FusedMatMul", "ReduceMax", "DynamicQuantizeLinear"} & kinds
    assert elements(model, onnx.TensorProto.INT8) == 2 * 12 * 32 * 32 + (51 + 32) * 32
    engine, reference = load("onnxruntime", tmp_path), load("torch", words / "model")
    for prompt in ([3, 4, 5], [20, 7, 11, 30, 9], [0, *range(3, 25)]):
        assert np.corrcoef(engine.logits(prompt), reference.logits(prompt))[0, 1] > 0.99


def test_smoothing_is_what_saves_static_int8_from_a_large_channel(
    words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def error(directory: Path) -> float:
        calibrated(words, directory)
        engine = load("onnxruntime", directory)
        return float(np.mean([np.abs(engine.logits(p) - reference.logits(p)).mean() for p in every]))

    reference = load("torch", words / "model")
    every = [[token, token + 1, 7] for token in range(3, 40)]
    smoothed = error(tmp_path / "smoothed")
    monkeypatch.setattr(onnx_static_int8, "_divisors", lambda activations, weights: np.ones_like(activations))
    assert error(tmp_path / "plain") > 1.5 * smoothed


def test_smoothing_changes_no_logit(words: Path, tmp_path: Path) -> None:
    config = read_gpt2_config(words / "onnx")
    weights = exported_weights(words / "onnx")
    widths = {"mlp.c_proj": config["n_inner"]}
    rng = np.random.default_rng(0)
    found = {
        f"h.{layer}.{name}": np.exp(rng.normal(size=(2, widths.get(name, 32)))).astype(np.float32)
        for layer in range(2)
        for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    smoothed = smooth(config, weights, found)
    graph = Gpt2Graph(config, Arithmetic(smoothed.weights)).build()
    write_export(graph, words / "onnx", tmp_path)
    before, after = load("onnxruntime", words / "onnx"), load("onnxruntime", tmp_path)
    for prompt in ([3, 4, 5], [0, *range(3, 25)]):
        np.testing.assert_allclose(after.logits(prompt), before.logits(prompt), atol=1e-4)
    assert not np.allclose(smoothed.weights("h.0.ln_2.weight"), weights("h.0.ln_2.weight"))


def test_extremes_are_per_channel_and_over_all_windows() -> None:
    windows = [{"a": np.array([[1, -2], [3, 0]], dtype=np.float32)}, {"a": np.array([[-1, 5]], dtype=np.float32)}]
    np.testing.assert_array_equal(extremes(windows)["a"], [[-1, -2], [3, 5]])


def test_ranges_leave_out_what_is_rare_and_far() -> None:
    rng = np.random.default_rng(0)
    even = rng.uniform(-1, 3, size=(500, 40)).astype(np.float32)
    peaked = rng.normal(size=(500, 40)).astype(np.float32)
    window = {"even": even, "peaked": peaked, "nothing": np.zeros((500, 40), dtype=np.float32)}
    far = peaked.copy()
    far[0, 0] = 20  # one of a million
    windows = [window] * 49 + [window | {"peaked": far}]
    ranges = best_ranges(windows, extremes(windows))
    assert ranges["even"].scale == pytest.approx(4 / 255, rel=1e-2)
    assert ranges["even"].offset == pytest.approx(64, abs=1)
    assert 4 < ranges["peaked"].scale * (255 - ranges["peaked"].offset) < 14
    assert ranges["nothing"].round(np.zeros(3)).tolist() == [0, 0, 0]
    for name in ("even", "peaked"):
        assert ranges[name].round(np.zeros(1)) == 0
        assert np.abs(ranges[name].round(even.astype(float)) - even).max() <= 0.51 * ranges[name].scale


def test_static_int8_wants_an_export_and_enough_text(words: Path, tmp_path: Path) -> None:
    spec = OnnxStaticInt8()
    with pytest.raises(CheckpointError, match=r"model\.onnx.*export-onnx"):
        quantize_onnx_static(words / "model", tmp_path / "a", spec, words)
    write_slice(tmp_path, train_files=0)
    with pytest.raises(ValueError, match=r"window.*32 .*0"):
        quantize_onnx_static(words / "onnx", tmp_path / "b", spec, tmp_path)


def test_torchs_int8_takes_the_head_and_nothing_else(checkpoint: Path, tmp_path: Path) -> None:
    notes = quantize_linear_only(checkpoint, tmp_path)
    assert notes == {"matmuls": 9, "int8_matmuls": 1}
    before, after = load_file(checkpoint / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert {name for name, tensor in after.items() if tensor.dtype == np.int8} == {"lm_head.weight"}
    assert all(np.array_equal(tensor, after[name]) for name, tensor in before.items())
    assert (tmp_path / "tokenizer.json").is_file()
    assert not json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"]


def test_torchs_int8_comes_back_whole_in_a_fresh_process(checkpoint: Path, tmp_path: Path) -> None:
    quantize_linear_only(checkpoint, tmp_path)
    with pytest.warns(DeprecationWarning, match=r"torch\.ao\.quantization is deprecated"):
        reference = torch.ao.quantization.quantize_dynamic(
            load_engine(Engine(name="torch"), checkpoint, 1)._model,  # type: ignore[attr-defined]
            {torch.nn.Linear},
            dtype=torch.qint8,
        )
    expected = reference(torch.tensor([[3, 4, 5]]), logits_to_keep=1).logits[0, -1].detach().numpy()
    (found,) = json.loads(run_program(PROGRAMS / "print_logits.py", tmp_path).stdout)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_torchs_int8_completions_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    quantize_linear_only(save(random_gpt2(), tmp_path / "model"), tmp_path / "int8")
    engine = load_engine(Engine(name="torch"), tmp_path / "int8", 1)
    batch, decoding = prompts(7), Decoding(fixed_new_tokens=8)
    together = [completion.tokens for completion in engine.complete(batch, STOP, decoding)]
    assert together == [engine.complete([prompt], STOP, decoding)[0].tokens for prompt in batch]


def test_a_damaged_int8_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    quantize_linear_only(checkpoint, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    head = tensors.pop("lm_head.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing.*lm_head\.weight"):
        load_quantized(tmp_path)
    save_file(tensors | {"lm_head.weight": head.astype(np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head\.weight.*float32.*int8"):
        load_quantized(tmp_path)
    (tmp_path / "quantization.json").write_text('{"method": "gptq", "modules": {}}')
    with pytest.raises(CheckpointError, match=r"method.*'gptq'.*'torch-dynamic-int8'"):
        load_quantized(tmp_path)
    (tmp_path / "quantization.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"quantization\.json"):
        load_quantized(tmp_path)
