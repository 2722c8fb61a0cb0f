"""Models in integers with a scale for each row, made by hand: what is read of them, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from slimline.tasks.engines.base import load_engine
from slimline.tasks.models.checkpoint import CheckpointError
from slimline.tasks.models.int8_loading import load_quantized, save_quantized
from slimline.tasks.models.loading import load_gpt2
from slimline.tasks.specs import Engine
from tests.tasks.gpt2_models import POSITIONS, VOCABULARY, random_gpt2, save

EMBEDDING = "transformer.wte"


def in_integers(rows: int, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor]:
    """Integers, scales and zero points of a matrix [rows, 32], and what these stand for."""
    generator = torch.Generator().manual_seed(rows)
    lowest = 0 if dtype == torch.uint8 else -127
    integers = torch.randint(lowest, lowest + 255, (rows, 32), generator=generator).to(dtype)
    scales = 0.001 + 0.01 * torch.rand(rows, generator=generator)
    zeros = 128 * torch.rand(rows, generator=generator) if lowest == 0 else torch.zeros(rows, dtype=torch.int32)
    parts = {"weight": integers, "scales": scales, "zero_points": zeros}
    return parts, (integers - zeros[:, None]) * scales[:, None]


@pytest.fixture
def quantized(tmp_path: Path) -> Path:
    """A model with all that ITREX quantizes in integers; beside it in `dense`, what these stand for."""
    model = random_gpt2(tie_word_embeddings=False)
    tensors = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    kinds = {EMBEDDING: VOCABULARY, "transformer.wpe": POSITIONS, "lm_head": VOCABULARY}
    for name, rows in kinds.items():
        parts, dense = in_integers(rows, torch.int8 if name == "lm_head" else torch.uint8)
        tensors |= {f"{name}.{part}": value for part, value in parts.items()}
        model.get_submodule(name).weight.data = dense
    modules = {name: {"kind": "linear" if name == "lm_head" else "embedding"} for name in kinds}
    save_quantized(save(model, tmp_path / "dense"), tensors, modules, tmp_path / "quantized")
    return tmp_path / "quantized"


def test_rows_have_their_own_scales(quantized: Path) -> None:
    model, dense = load_quantized(quantized), load_gpt2(quantized.with_name("dense"))
    for name in (EMBEDDING, "transformer.wpe", "lm_head"):
        expected = dense.get_submodule(name).weight
        torch.testing.assert_close(model.get_submodule(name).weight().dequantize(), expected, atol=1e-6, rtol=1e-5)
    prompt = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        torch.testing.assert_close(model.transformer.wte(prompt), dense.transformer.wte(prompt), atol=1e-5, rtol=1e-4)
        expected = dense(prompt).logits
        differences = (model(prompt).logits - expected).abs()
    assert 0 < differences.max() < 0.02 * expected.abs().max()  # the head's inputs are rounded
    assert load_engine(Engine(name="torch"), quantized, 1).logits([3, 4, 5]).shape == (VOCABULARY,)


def test_a_module_without_a_kind_is_a_linear_one(quantized: Path) -> None:
    description = json.loads((quantized / "quantization.json").read_text())
    description["modules"]["lm_head"] = {"scale": 0.5, "zero_point": 0}
    (quantized / "quantization.json").write_text(json.dumps(description))
    head = load_quantized(quantized).lm_head.weight()
    assert (head.q_scale(), head.q_zero_point()) == (0.5, 0)


def tensors_without(*names: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {name: value for name, value in tensors.items() if name not in names}


def changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: tensors | {name: change(tensors[name])}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (tensors_without(f"{EMBEDDING}.scales"), rf"missing: {EMBEDDING}\.scales$"),
        (tensors_without("lm_head.zero_points"), r"missing: lm_head\.zero_points$"),
        (tensors_without("transformer.ln_f.bias"), r"missing: transformer\.ln_f\.bias$"),
        (changed(f"{EMBEDDING}.scales", lambda each: each[:5]), rf"{EMBEDDING} has 5 scales and 97 zero.*of 97 rows"),
        (changed("lm_head.weight", lambda each: each.to(torch.uint8)), r"lm_head\.weight.*uint8.*int8"),
        (changed(f"{EMBEDDING}.weight", lambda each: each[:, :8].contiguous()), rf"{EMBEDDING}\.weight is \[97, 8\]"),
    ],
)
def test_a_damaged_file_is_refused(
    quantized: Path, damage: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    path = quantized / "model.safetensors"
    save_file(damage(load_file(path)), path)
    with pytest.raises(CheckpointError, match=message):
        load_quantized(quantized)


def test_an_unknown_kind_is_refused(quantized: Path) -> None:
    path = quantized / "quantization.json"
    path.write_text(path.read_text().replace('"embedding"', '"table"'))
    with pytest.raises(CheckpointError, match=r"kind is 'table'; allowed: linear, embedding"):
        load_quantized(quantized)
