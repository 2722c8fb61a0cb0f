"""Group-lasso pruning by the real ITREX: how much is zero and where, what is learnt, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from slimline.tasks.engines.base import load_engine
from slimline.tasks.itrex import pruning
from slimline.tasks.itrex.environment import ItrexError
from slimline.tasks.itrex.pruning import _check_sparsity, _fill, prune
from slimline.tasks.itrex.worker import Pruning, Rounds, _rounds
from slimline.tasks.models.loading import load_gpt2, save_gpt2
from slimline.tasks.runtime.progress import progress_listener
from slimline.tasks.specs import Engine, ItrexPrune
from tests.tasks.tiny import write_model, write_slice

SPEC = ItrexPrune(window=16, batch_size=4, learning_rate=5e-3, epochs=10, max_steps=60)


@pytest.fixture(scope="module")
def even_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose vocabulary, 52, is divisible by 4."""
    return write_model(tmp_path_factory.mktemp("even"), words=49)


@pytest.fixture(scope="module")
def shared_result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pruned") / "target"


@pytest.fixture
def pruned(itrex: None, even_model: Path, slice_dir: Path, shared_result: Path) -> tuple[Path, dict[str, Any]]:
    """The result and its notes, made once."""
    notes = shared_result.with_name("notes.json")
    if not notes.exists():
        made = prune(SPEC, even_model, slice_dir, shared_result, shared_result.with_name("work"))
        notes.write_text(json.dumps(made, allow_nan=False))
    return shared_result, json.loads(notes.read_text())


def test_every_matrix_ends_at_the_sparsity_in_whole_blocks(pruned: tuple[Path, dict[str, Any]]) -> None:
    target, notes = pruned
    model = AutoModelForCausalLM.from_pretrained(target)
    matrices = {name: weight for name, weight in model.named_parameters() if weight.ndim == 2}
    assert len(matrices) == notes["matrices"] == 10
    for name, weight in matrices.items():
        zeros = weight == 0
        assert float(zeros.float().mean()) == pytest.approx(0.6, abs=0.01), name
        assert torch.equal(zeros, zeros.unflatten(0, (-1, 4)).all(1).repeat_interleave(4, 0)), name
        assert not torch.signbit(weight[zeros]).any()
        assert notes["by_matrix"][name]["block_sparsity"] == pytest.approx(float(zeros.float().mean()))
    assert notes["not_pruned"] == []
    assert notes["sparsity_min"] <= notes["sparsity"] == notes["block_sparsity"] <= notes["sparsity_max"]
    assert model.lm_head.weight is model.transformer.wte.weight


def test_a_language_is_learnt_all_the_same(pruned: tuple[Path, dict[str, Any]]) -> None:
    notes = pruned[1]
    assert notes["dev_loss"] < notes["dev_loss_before"] - 0.3
    assert notes["dev_bits_per_byte"] < notes["dev_bits_per_byte_before"]
    assert (notes["steps"], notes["tokens"]) == (60, 60 * 4 * 16)
    assert [step for step, _ in notes["loss_curve"]] == list(range(1, 61))
    assert notes["loss_curve"][-1][1] < notes["train_loss"] < notes["loss_curve"][0][1]
    assert notes["versions"]["neural-compressor"] == "2.6"


def test_torchs_engine_runs_it(pruned: tuple[Path, dict[str, Any]]) -> None:
    logits = load_engine(Engine(name="torch"), pruned[0], 1).logits([3, 4, 5])
    with torch.no_grad():
        expected = load_gpt2(pruned[0])(torch.tensor([[3, 4, 5]])).logits[0, -1].numpy()
    assert logits == pytest.approx(expected, abs=1e-5)


@pytest.mark.usefixtures("itrex")
def test_known_dead_blocks_are_the_ones_pruned_and_the_penalty_shrinks_the_others(
    model_dir: Path, slice_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a model of 51 tokens: 4 does not divide them, so the embedding remains. Each step is computed in two parts."""
    model, dead = load_gpt2(model_dir), {}
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and name != "transformer.wte.weight":
            order = torch.rand(len(weight) // 4 * weight.shape[1], generator=generator).argsort()
            dead[name] = (order < int(0.6 * len(order))).view(-1, weight.shape[1]).repeat_interleave(4, 0)
            weight.data = (torch.rand(weight.shape, generator=generator) + 0.5) * 0.1 * (1 - 0.999 * dead[name])
    save_gpt2(model, model_dir, tmp_path / "planted")
    monkeypatch.setattr(pruning, "micro_batch", lambda *_: 2)
    spec = ItrexPrune(window=16, batch_size=4, learning_rate=1e-4, max_steps=7, alpha=100)
    said: list[tuple[str, float]] = []
    with progress_listener(lambda *each: said.append(each)):
        notes: Any = prune(spec, tmp_path / "planted", slice_dir, tmp_path / "target", tmp_path / "work")
    assert said[0] == ("importing torch", 0) and said[-1] == ("pruning by ITREX", 1)
    assert notes["not_pruned"] == ["transformer.wte.weight"]
    assert notes["loss_curve"][0][1] == pytest.approx(notes["dev_loss_before"], abs=0.2)
    result = load_gpt2(tmp_path / "target")
    for name, blocks in dead.items():
        before, after = model.get_parameter(name), result.get_parameter(name)
        assert (after[blocks] == 0).all() and int((after[~blocks] == 0).sum()) <= 4  # ITREX prunes one block more
        assert float((after < before)[~blocks].float().mean()) > 0.99


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"window": 33}, ["window: 33", "32 positions"]), ({"window": 32, "sparsity": 0.6}, ["train.parquet", "32"])],
)
def test_what_does_not_fit_is_refused_before_itrex_runs(
    even_model: Path, tmp_path: Path, fields: dict[str, Any], words: list[str]
) -> None:
    write_slice(tmp_path, train_files=0)
    with pytest.raises(ValueError) as refused:
        prune(ItrexPrune(**fields), even_model, tmp_path, tmp_path / "target", tmp_path / "work")
    assert all(word in str(refused.value) for word in words)


def test_a_result_that_is_not_the_model_is_refused(even_model: Path) -> None:
    model = load_gpt2(even_model)
    tensors = {name: weight.detach() + 1 for name, weight in model.named_parameters()}
    name = "transformer.wpe.weight"
    with pytest.raises(ItrexError, match=rf"tensors of the model.*{name}"):
        _fill(model, {other: tensor for other, tensor in tensors.items() if other != name})
    with pytest.raises(ItrexError, match=rf"{name} is \[4, 32\]; allowed: \[32, 32\]"):
        _fill(model, tensors | {name: tensors[name][:4]})
    with pytest.raises(ItrexError, match=rf"{name} is NaN or infinite; lower learning_rate or alpha"):
        _fill(model, tensors | {name: tensors[name] * torch.inf})
    _fill(model, tensors)
    assert torch.equal(model.transformer.wpe.weight, tensors[name])


def test_a_missed_sparsity_is_refused_by_name(even_model: Path) -> None:
    model, name = load_gpt2(even_model), "transformer.h.0.mlp.c_fc.weight"
    with pytest.raises(ItrexError, match=rf"0\.6 is missed by {name}: 0\.0000"):
        _check_sparsity(model, [name], 0.6)
    with pytest.raises(ItrexError, match="no matrix can be pruned"):
        _check_sparsity(model, [], 0.6)
    with torch.no_grad():
        model.get_parameter(name)[:16] = 0
    shares: Any = _check_sparsity(model, [name], 0.5)
    assert shares["by_matrix"][name] == {"sparsity": 0.5, "block_sparsity": 0.5, "weights": 4096, "blocks": 1024}


# --------------------------------------------------------------------------------------------------------------- worker


def test_each_pass_has_every_window_once_in_another_order() -> None:
    rounds = Rounds(windows=6, of_round=4, seed=0)
    drawn = [list(rounds) for _ in range(3)]
    assert [len(each) for each in drawn] == [4, 4, 4] and len(rounds) == 4
    first, second = (drawn[0] + drawn[1] + drawn[2])[:6], (drawn[0] + drawn[1] + drawn[2])[6:]
    assert sorted(first) == sorted(second) == list(range(6)) and first != second


@pytest.mark.parametrize(("steps", "expected"), [(1, (1, 1)), (7, (7, 1)), (12, (6, 2)), (140, (10, 14))])
def test_the_rounds_of_a_training(steps: int, expected: tuple[int, int]) -> None:
    request = Pruning("", "", steps, 4, 4, 1e-3, 0.6, 1e-3, 0)
    assert _rounds(request) == expected
