"""Weight-only int8 and int4: packed on disk and in memory, whole again after a reload, and what GPTQ is for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from slimline.tasks.data.packing import pack_split
from slimline.tasks.engines.base import CompletionEngine, load_engine
from slimline.tasks.export.parity import logits_parity
from slimline.tasks.models import packed
from slimline.tasks.models.checkpoint import CheckpointError
from slimline.tasks.models.loading import save_gpt2
from slimline.tasks.models.packed import PACKED_FILE, PackedLinear, load_dense, pack, round_rows
from slimline.tasks.quantization.dynamic_int8 import quantize_linear_only
from slimline.tasks.quantization.weight_only import quantize_weights
from slimline.tasks.specs import Decoding, Engine, WeightOnly
from tests.command import run_program
from tests.tasks import tiny
from tests.tasks.gpt2_models import STOP, prompts, random_gpt2

PROGRAMS = Path(__file__).with_name("programs")
FORMS = [("rtn", 8), ("rtn", 4), ("gptq", 8), ("gptq", 4)]


def checkpoint_of(model: GPT2LMHeadModel, directory: Path) -> Path:
    """With the tokenizer of `tiny`'s language, of which the model knows every word."""
    tiny.write_model(directory)
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint_of(random_gpt2(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def slice_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_slice(tmp_path_factory.mktemp("slice"))


@pytest.fixture(scope="module")
def quantized(checkpoint: Path, slice_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    """Every form of the checkpoint by method and bits, all made in one process, as a study does."""
    root = tmp_path_factory.mktemp("quantized")
    for method, bits in FORMS:
        quantize_weights(
            checkpoint,
            root / f"{method}{bits}",
            WeightOnly(method=method, bits=bits, calibration_samples=16),
            slice_dir,
        )
    return {(method, bits): root / f"{method}{bits}" for method, bits in FORMS}


def load(directory: Path, dtype: Literal["float32", "bfloat16"] = "float32") -> CompletionEngine:
    return load_engine(Engine(name="torch", dtype=dtype), directory, 1)


@given(st.data())
def test_packing_is_undone_exactly(data: st.DataObject) -> None:
    bits = data.draw(st.sampled_from([4, 8]))
    rows, columns, width = (data.draw(st.integers(1, limit)) for limit in (5, 40, 50))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    limit = 2 ** (bits - 1)
    integers = torch.from_numpy(rng.integers(-limit, limit, (rows, columns)).astype(np.int8))
    scales = torch.from_numpy(rng.uniform(0.01, 2, (rows, -(-columns // width))).astype(np.float16))
    matrix = pack(integers, scales, bits, width)
    expected = integers * scales.float().repeat_interleave(width, dim=1)[:, :columns]
    assert torch.equal(matrix.unpack(columns, torch.float32), expected)
    assert matrix.fits(rows, columns) and not matrix.fits(rows + 1, columns)
    assert matrix.weight.nbytes <= rows * bits / 8 * (columns + min(width, columns) + 1)


@given(st.integers(0, 1000), st.integers(-12, 4))
def test_rounding_rows_errs_by_half_a_step_at_most(seed: int, exponent: int) -> None:
    table = torch.from_numpy(np.random.default_rng(seed).normal(size=(6, 9)).astype(np.float32)) * 10.0**exponent
    table[2] = 0
    matrix = round_rows(table)
    error = (matrix.unpack(9, torch.float32) - table).abs()
    # A scale has 11 bits, or is a multiple of 2^-24 where fp16 has no more.
    step = table.abs().amax(dim=1, keepdim=True) / 127 * (1 + 2**-11) + 2.0**-25
    assert (error <= torch.maximum(step / 2, 127 * (2.0**-25 + step * 2**-11))).all()


@pytest.mark.parametrize(("method", "bits"), FORMS)
def test_every_projection_is_packed(method: str, bits: int, quantized: dict[Any, Path]) -> None:
    directory = quantized[method, bits]
    assert {path.name for path in directory.iterdir()} == {PACKED_FILE, "config.json", "tokenizer.json"}
    tensors = load_file(directory / PACKED_FILE)
    stored = {name: tensor for name, tensor in tensors.items() if tensor.dtype in (torch.int8, torch.uint8)}
    assert len(stored) == 2 * 4 + 2 and "lm_head.weight" not in tensors
    projections = [tensor for name, tensor in stored.items() if ".h." in name]
    assert sum(tensor.nbytes for tensor in projections) == 2 * 12 * 32 * 32 * bits // 8
    assert {tensor.dtype for name, tensor in tensors.items() if name not in stored} == {torch.float16}
    weights, groups = 2 * 12 * 32 * 32, 2 * 12 * 32
    rest = 97 * 32 + 64 * 32 + 2 * (groups + 97 + 64) + 2 * (5 * 2 * 32 + 2 * 9 * 32)
    assert (directory / PACKED_FILE).stat().st_size < weights * bits / 8 + rest + 5000  # the header


@pytest.mark.parametrize(("method", "bits"), FORMS)
def test_the_model_is_close_and_does_not_see_batches(
    method: str, bits: int, checkpoint: Path, quantized: dict[Any, Path]
) -> None:
    engine = load(quantized[method, bits])
    parity = logits_parity(load(checkpoint), engine, prompts(8), new_tokens=1)
    assert 0 < parity.max_abs < (0.5 if bits == 8 else 8)
    batch, decoding = prompts(7), Decoding(max_new_tokens=10)
    together = [completion.tokens for completion in engine.complete(batch, STOP, decoding)]
    assert together == [engine.complete([prompt], STOP, decoding)[0].tokens for prompt in batch]
    drafting = load_engine(Engine(name="torch", draft_tokens=4), quantized[method, bits], 1)
    assert together == [drafting.complete([prompt], STOP, decoding)[0].tokens for prompt in batch]
    np.testing.assert_allclose(
        load(quantized[method, bits], "bfloat16").logits([3, 4]), engine.logits([3, 4]), atol=0.3
    )


@pytest.mark.parametrize(("method", "bits"), FORMS)
def test_unpacked_it_is_a_checkpoint_that_computes_the_same(
    method: str, bits: int, checkpoint: Path, quantized: dict[Any, Path], tmp_path: Path
) -> None:
    save_gpt2(load_dense(quantized[method, bits]), checkpoint, tmp_path)
    np.testing.assert_allclose(load(tmp_path).logits([3, 4]), load(quantized[method, bits]).logits([3, 4]), atol=1e-5)


def test_gptq_is_closer_than_rounding_on_the_language_it_saw(
    checkpoint: Path, slice_dir: Path, quantized: dict[Any, Path]
) -> None:
    windows = pack_split(slice_dir, "dev", Tokenizer.from_file(str(checkpoint / "tokenizer.json")), 32).tolist()
    expected, *found = (
        np.stack([engine.logits(window) for window in windows])
        for engine in (load(checkpoint), load(quantized["rtn", 4]), load(quantized["gptq", 4]))
    )
    rounding, gptq = (float(np.mean((logits - expected) ** 2)) for logits in found)
    assert gptq < 0.8 * rounding


@pytest.mark.parametrize("program", ["unpack_with_transformers.py", "print_logits.py"])
def test_a_fresh_process_gives_the_same_logits(program: str, quantized: dict[Any, Path]) -> None:
    directories = [quantized["gptq", 8], quantized["rtn", 4]]
    output = run_program(PROGRAMS / program, *directories).stdout
    for found, directory in zip(json.loads(output), directories, strict=True):
        np.testing.assert_allclose(found, load(directory).logits([3, 4, 5]), atol=1e-4)


@pytest.mark.parametrize("method", ["rtn", "gptq"])
@pytest.mark.parametrize("group_size", [9, 20, 33, 1000])
def test_groups_need_not_divide_a_row(
    group_size: int, method: Literal["rtn", "gptq"], slice_dir: Path, tmp_path: Path
) -> None:
    model = random_gpt2(n_embd=30, n_head=3, n_inner=50, tie_word_embeddings=False)
    model.transformer.h[0].mlp.c_fc.weight.data[:, :25] = 0  # as after pruning
    model.transformer.h[0].mlp.c_fc.bias.data[:25] = 0
    directory = checkpoint_of(model, tmp_path / "model")
    for bits in (4, 8):
        spec = WeightOnly(method=method, bits=bits, group_size=group_size, calibration_samples=16)
        notes = quantize_weights(directory, tmp_path / str(bits), spec, slice_dir)
        scales = (3 + 1) * 30 * -(-30 // group_size) + 50 * -(-30 // group_size) + 30 * -(-50 // group_size)
        assert (notes["matmuls"], notes["int8_matmuls"], notes["packed_matmuls"]) == (9, 0, 9)
        least = bits / 8 + 2 * scales / (4 * 30 * 30 + 2 * 30 * 50)
        assert least <= notes["bytes_per_weight"] < 1.5 * least
        parity = logits_parity(load(directory), load(tmp_path / str(bits)), prompts(4), new_tokens=1)
        assert parity.max_abs < (8 if bits == 4 else 1)


def test_nothing_is_left_where_the_process_runs(
    checkpoint: Path,
    slice_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    quantize_weights(
        checkpoint, tmp_path / "target", WeightOnly(method="gptq", bits=4, calibration_samples=16), slice_dir
    )
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert not {"INFO", "WARNING"} & set(re.findall("[A-Z]+", "".join(capfd.readouterr())))


def test_a_large_matrix_is_rebuilt_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = round_rows(torch.randn(50, 24))
    bias = torch.nn.Parameter(torch.randn(50))
    inputs = torch.randn(2, 3, 24)
    expected = torch.nn.functional.linear(inputs, matrix.unpack(24, torch.float32), bias)
    monkeypatch.setattr(packed, "_BLOCK", 7 * 24)
    torch.testing.assert_close(PackedLinear(matrix, 24, bias)(inputs), expected)


def test_only_an_fp32_checkpoint_can_be_quantized(
    checkpoint: Path, quantized: dict[Any, Path], slice_dir: Path, tmp_path: Path
) -> None:
    quantize_linear_only(checkpoint, tmp_path / "int8")
    with pytest.raises(CheckpointError, match=r"dynamic-int8.*weight-only.*fp32"):
        quantize_weights(tmp_path / "int8", tmp_path / "target", WeightOnly(), slice_dir)
    with pytest.raises(CheckpointError, match=r"weight-only.*weight-only.*fp32"):
        quantize_weights(quantized["rtn", 8], tmp_path / "target", WeightOnly(), slice_dir)


def test_what_cannot_be_quantized_is_refused(slice_dir: Path, tmp_path: Path) -> None:
    model = random_gpt2()
    directory = checkpoint_of(model, tmp_path / "model")
    (tmp_path / "empty").mkdir()
    tiny.write_slice(tmp_path / "empty", train_files=1)
    with pytest.raises(ValueError, match=r"window.*64 .*32"):
        quantize_weights(directory, tmp_path / "target", WeightOnly(method="gptq"), tmp_path / "empty")
    (directory / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        quantize_weights(directory, tmp_path / "target", WeightOnly(), slice_dir)
    directory = checkpoint_of(model, tmp_path / "model")
    model.transformer.h[0].mlp.c_fc.weight.data[0, 0] = 1e8
    model.save_pretrained(directory)
    with pytest.raises(ValueError, match=r"scale.*65504"):
        quantize_weights(directory, tmp_path / "target", WeightOnly(), slice_dir)


def test_a_damaged_artifact_is_refused(quantized: dict[Any, Path], tmp_path: Path) -> None:
    source = quantized["rtn", 4]
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    (tmp_path / PACKED_FILE).write_bytes((source / PACKED_FILE).read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load(tmp_path)
    tensors = load_file(source / PACKED_FILE)
    name = "transformer.h.1.mlp.c_fc"
    for missing in (f"{name}.weight", f"{name}.scales", f"{name}.bias", "transformer.ln_f.weight"):
        save_file({key: tensor for key, tensor in tensors.items() if key != missing}, tmp_path / PACKED_FILE)
        with pytest.raises(CheckpointError, match=rf"missing.*{missing}"):
            load(tmp_path)
    for part, wrong in (("weight", torch.zeros(128, 15, dtype=torch.uint8)), ("scales", torch.zeros(127, 1))):
        save_file(tensors | {f"{name}.{part}": wrong}, tmp_path / PACKED_FILE)
        with pytest.raises(CheckpointError, match=rf"{name}.*\[128, 32\]"):
            load(tmp_path)
