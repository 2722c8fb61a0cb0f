"""Dynamic int8 by the real ITREX: what is in integers, what these are, and that torch's engine computes the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from slimline.tasks.engines.base import load_engine
from slimline.tasks.itrex.environment import ItrexError
from slimline.tasks.itrex.quantization import _difference, quantize
from slimline.tasks.measurement.size import count_parameters
from slimline.tasks.models.loading import load_gpt2
from slimline.tasks.specs import Engine
from tests.tasks.gpt2_models import POSITIONS, VOCABULARY, prompts, random_gpt2, save


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(random_gpt2(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def shared_result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantized") / "target"


@pytest.fixture
def quantized(
    itrex: None, checkpoint: Path, shared_result: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, dict[str, Any]]:
    """The result and its notes, made once, from a directory `here` that is the user's home as well."""
    notes, here = shared_result.with_name("notes.json"), shared_result.with_name("here")
    if not notes.exists():
        here.mkdir()
        monkeypatch.chdir(here)
        monkeypatch.setenv("HOME", str(here))
        notes.write_text(json.dumps(quantize(checkpoint, shared_result)))
    return shared_result, json.loads(notes.read_text())


def test_embeddings_and_head_are_int8_and_nothing_else(
    quantized: tuple[Path, dict[str, Any]], checkpoint: Path
) -> None:
    target, notes = quantized
    assert (notes["matmuls"], notes["int8_matmuls"]) == (9, 1)
    assert notes["int8_modules"] == ["lm_head", "transformer.wpe", "transformer.wte"]
    assert 0 <= notes["itrex_parity_max_abs"] <= 1e-4
    assert notes["versions"]["intel-extension-for-transformers"] == "1.4.2"
    before, after = load_file(checkpoint / "model.safetensors"), load_file(target / "model.safetensors")
    integers = {name: tensor.dtype for name, tensor in after.items() if tensor.dtype in (np.int8, np.uint8)}
    assert integers == {
        "lm_head.weight": np.int8,
        "transformer.wpe.weight": np.uint8,
        "transformer.wte.weight": np.uint8,
    }
    kept = before.keys() - integers.keys()
    assert len(kept) == 2 * 12 + 2 and all(np.array_equal(before[name], after[name]) for name in kept)
    assert not json.loads((target / "config.json").read_text())["tie_word_embeddings"]
    assert (target / "tokenizer.json").is_file()


@pytest.mark.parametrize("module", ["lm_head", "transformer.wte", "transformer.wpe"])
def test_an_integer_is_the_nearest_of_its_row(
    quantized: tuple[Path, dict[str, Any]], checkpoint: Path, module: str
) -> None:
    tensors = load_file(quantized[0] / "model.safetensors")
    integers, scales, zeros = (tensors[f"{module}.{part}"] for part in ("weight", "scales", "zero_points"))
    weight = load_gpt2(checkpoint).get_submodule(module).weight.detach().numpy()
    error = np.abs((integers - zeros[:, None]) * scales[:, None] - weight)
    assert (error <= 0.501 * scales[:, None]).all()
    # The head's rows are symmetric about zero; embeddings use the range that they have.
    steps = np.abs(weight).max(axis=1) / 127.5 if module == "lm_head" else np.ptp(weight, axis=1) / 255
    np.testing.assert_allclose(scales, steps, rtol=1e-3)


def test_torchs_engine_runs_it(quantized: tuple[Path, dict[str, Any]], checkpoint: Path) -> None:
    engine, reference = (load_engine(Engine(name="torch"), path, 1) for path in (quantized[0], checkpoint))
    for prompt in prompts(5):
        expected, found = reference.logits(prompt), engine.logits(prompt)
        assert np.corrcoef(expected, found)[0, 1] > 0.999
        assert 0 < np.abs(expected - found).max() < 0.2


def test_scales_are_no_parameters(quantized: tuple[Path, dict[str, Any]], checkpoint: Path) -> None:
    assert count_parameters(quantized[0]).total == count_parameters(checkpoint).total + VOCABULARY * 32
    tensors = load_file(quantized[0] / "model.safetensors")
    zeros = int((tensors["lm_head.weight"] == 0).sum())
    assert count_parameters(quantized[0]).nonzero == count_parameters(quantized[0]).total - zeros
    assert len(tensors["transformer.wpe.scales"]) == POSITIONS


def test_nothing_is_left_where_it_ran(quantized: tuple[Path, dict[str, Any]]) -> None:
    assert not list(quantized[0].with_name("here").iterdir())


@pytest.mark.parametrize("change", [0.001, np.nan])
def test_other_logits_than_in_itrexs_process_are_refused(checkpoint: Path, tmp_path: Path, change: float) -> None:
    model, path = load_gpt2(checkpoint), tmp_path / "logits.safetensors"
    with torch.no_grad():
        logits = model(torch.tensor([[5, 1, 4, 1, 3, 2]])).logits[0].numpy()
    save_file({"logits": logits}, path)
    assert _difference(model, path) == 0
    logits[3, 7] += change
    save_file({"logits": logits}, path)
    with pytest.raises(ItrexError, match=r"logits differ by (0\.001|nan).*allowed: 0\.0001"):
        _difference(model, path)
