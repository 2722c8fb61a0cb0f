"""Both kinds of int8: what is quantized, how closely, and that the files alone give the same model back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from gpt2_models import STOP, prompts, random_gpt2, save, trained_gpt2
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from tasks.engines.base import load_engine
from tasks.engines.checkpoint import CheckpointError
from tasks.engines.export_onnx import export_onnx
from tasks.engines.parity import logits_parity
from tasks.quantization import onnx_int8
from tasks.quantization.dynamic_int8 import load_quantized, quantize_linear_only
from tasks.quantization.onnx_int8 import quantize_onnx, quantize_symmetric
from tasks.specs import Decoding, Engine


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(trained_gpt2(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    export_onnx(checkpoint, checkpoint / "onnx")
    return checkpoint / "onnx"


@pytest.mark.parametrize("per_channel", [True, False])
def test_every_projection_of_the_graph_is_int8(
    per_channel: bool, checkpoint: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    notes = quantize_onnx(exported, tmp_path / "int8", per_channel)
    assert (notes["matmuls"], notes["int8_matmuls"]) == (9, 9)
    assert [path.name for path in tmp_path.iterdir()] == ["int8"]
    model = onnx.load_model(tmp_path / "int8" / "model.onnx")
    assert not {"Gemm", "MatMul"} & {node.op_type for node in model.graph.node}
    int8 = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert sum(int(np.prod(tensor.dims)) for tensor in int8) == 2 * 12 * 32 * 32 + 97 * 32
    reference, other = (
        load_engine(Engine(name="torch"), checkpoint, 1),
        load_engine(Engine(name="onnxruntime"), tmp_path / "int8", 1),
    )
    parity = logits_parity(reference, other, prompts(8), new_tokens=1)
    assert 0 < parity.max_abs < 0.5
    assert parity.greedy_agreement > 0.7


def test_int8_completions_do_not_depend_on_the_batch(exported: Path, tmp_path: Path) -> None:
    quantize_onnx(exported, tmp_path, per_channel=True)
    engine = load_engine(Engine(name="onnxruntime"), tmp_path, 1)
    batch, decoding = prompts(7), Decoding(max_new_tokens=10)
    together = [completion.tokens for completion in engine.complete(batch, STOP, decoding)]
    assert together == [engine.complete([prompt], STOP, decoding)[0].tokens for prompt in batch]


def test_without_vnni_weights_keep_to_seven_bits(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_int8, "has_exact_int8", lambda: False)
    assert quantize_onnx(exported, tmp_path, per_channel=True)["weight_bits"] == 7
    tensors = onnx.load_model(tmp_path / "model.onnx").graph.initializer
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in tensors if tensor.name.endswith(".int8")]
    assert max(np.abs(weight).max() for weight in weights) == 63


def test_a_pruned_graph_stays_finite(tmp_path: Path) -> None:
    model = random_gpt2()
    model.transformer.h[0].mlp.c_fc.weight.data[:] = 0
    model.transformer.h[0].mlp.c_fc.bias.data[:] = 0
    model.transformer.h[1].attn.c_proj.weight.data[:, 3] = 0
    export_onnx(save(model, tmp_path / "model"), tmp_path / "onnx")
    quantize_onnx(tmp_path / "onnx", tmp_path / "int8", per_channel=True)
    assert np.isfinite(load_engine(Engine(name="onnxruntime"), tmp_path / "int8", 1).logits([3, 4])).all()


def test_only_an_fp32_export_can_be_quantized(checkpoint: Path, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.onnx is missing; onnx-int8 follows export-onnx"):
        quantize_onnx(checkpoint, tmp_path / "a", per_channel=True)
    quantize_onnx(exported, tmp_path / "int8", per_channel=True)
    with pytest.raises(CheckpointError, match="is it quantized already"):
        quantize_onnx(tmp_path / "int8", tmp_path / "b", per_channel=True)
    (tmp_path / "int8" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match="not an ONNX file"):
        quantize_onnx(tmp_path / "int8", tmp_path / "b", per_channel=True)


@given(st.integers(0, 1000), st.sampled_from([None, 0]), st.sampled_from([63, 127]))
def test_rounding_errs_by_half_a_step_at_most(seed: int, axis: int | None, limit: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = (rng.normal(size=(6, 4)) * 10.0 ** rng.integers(-6, 6)).astype(np.float32)
    integers, scales = quantize_symmetric(matrix, axis, limit)
    assert np.abs(integers.astype(int)).max() == limit
    assert (np.abs(integers * scales - matrix) <= 0.5001 * scales).all()


def test_torchs_int8_takes_the_head_and_nothing_else(checkpoint: Path, tmp_path: Path) -> None:
    notes = quantize_linear_only(checkpoint, tmp_path)
    assert notes == {"matmuls": 9, "int8_matmuls": 1}
    before, after = load_file(checkpoint / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert {name for name, tensor in after.items() if tensor.dtype == np.int8} == {"lm_head.weight"}
    assert all(np.array_equal(tensor, after[name]) for name, tensor in before.items())
    assert (tmp_path / "tokenizer.json").is_file()
    assert not json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"]


RELOAD = """
import sys
from pathlib import Path
from tasks.engines.base import load_engine
from tasks.specs import Engine
print(load_engine(Engine(name="torch"), Path(sys.argv[1]), 1).logits([3, 4, 5]).tolist())
"""


def test_torchs_int8_comes_back_whole_in_a_fresh_process(checkpoint: Path, tmp_path: Path) -> None:
    quantize_linear_only(checkpoint, tmp_path)
    with pytest.warns(DeprecationWarning, match=r"torch\.ao\.quantization is deprecated"):
        reference = torch.ao.quantization.quantize_dynamic(
            load_engine(Engine(name="torch"), checkpoint, 1)._model,  # type: ignore[attr-defined]
            {torch.nn.Linear},
            dtype=torch.qint8,
        )
    expected = reference(torch.tensor([[3, 4, 5]]), logits_to_keep=1).logits[0, -1].detach().numpy()
    command = [sys.executable, "-c", RELOAD, str(tmp_path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    np.testing.assert_allclose(json.loads(output), expected, atol=1e-5)


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
    with pytest.raises(CheckpointError, match=r"tensors are missing: lm_head\.weight"):
        load_quantized(tmp_path)
    save_file(tensors | {"lm_head.weight": head.astype(np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is torch\.float32; allowed: torch\.int8"):
        load_quantized(tmp_path)
    (tmp_path / "quantization.json").write_text('{"method": "gptq", "modules": {}}')
    with pytest.raises(CheckpointError, match="method is 'gptq'; allowed: 'torch-dynamic-int8'"):
        load_quantized(tmp_path)
    (tmp_path / "quantization.json").write_text("{}")
    with pytest.raises(CheckpointError, match="unreadable description"):
        load_quantized(tmp_path)
