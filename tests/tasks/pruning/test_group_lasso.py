from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, TrainerCallback
from transformers.pytorch_utils import Conv1D

from slimline.tasks.models.loading import load_gpt2
from slimline.tasks.pruning.blocks import (
    Layout,
    block_norms,
    block_sizes,
    matrices,
    prune_mask,
    scale_blocks,
    to_blocks,
)
from slimline.tasks.pruning.group_lasso import (
    PruningCallback,
    block_size_medians,
    check_sparsity,
    cubic_sparsity,
    gradient_factors,
    group_lasso,
    limited,
    proximal_factors,
    sparsity_report,
)
from slimline.tasks.specs import GroupLasso
from slimline.tasks.training.finetune import fine_tune
from tests.command import program_command
from tests.tasks.tiny import TRAIN, kill_after_first_checkpoint

SPEC = GroupLasso(window=16, batch_size=4, learning_rate=5e-3, max_steps=12, warmup_share=0.0, ramp_share=0.5)


@pytest.fixture(scope="module")
def pruned(model_dir: Path, slice_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    directory = tmp_path_factory.mktemp("pruned")
    return directory / "target", group_lasso(SPEC, model_dir, slice_dir, directory / "target", directory / "work")


# -------------------------------------------------------------------------------------------------------------- blocks

# Outputs x inputs: two whole blocks of 4x1 above a rest of one output.
MATRIX = torch.tensor([[1.0, 3.0], [1.0, 0.0], [1.0, 4.0], [1.0, 0.0], [7.0, -2.0]])
LAYOUTS = pytest.mark.parametrize(("matrix", "layout"), [(MATRIX, "out-in"), (MATRIX.t().contiguous(), "in-out")])


@LAYOUTS
def test_norms_and_sizes_by_hand(matrix: Tensor, layout: Layout) -> None:
    assert block_norms(matrix, (4, 1), layout).tolist() == [[2.0, 5.0], [7.0, 2.0]]
    assert block_sizes(matrix, (4, 1), layout).tolist() == [[4, 4], [1, 1]]
    assert to_blocks(matrix, (4, 1), layout).shape == (2, 4, 2, 1)


@LAYOUTS
def test_blocks_of_several_inputs(matrix: Tensor, layout: Layout) -> None:
    assert block_sizes(matrix, (2, 2), layout).tolist() == [[4], [4], [2]]
    expected = [[math.sqrt(11)], [math.sqrt(18)], [math.sqrt(53)]]
    torch.testing.assert_close(block_norms(matrix, (2, 2), layout), torch.tensor(expected))


@LAYOUTS
def test_scaling_reaches_each_block_in_place(matrix: Tensor, layout: Layout) -> None:
    scaled = matrix.clone()
    scale_blocks(scaled, torch.tensor([[0.0, 1.0], [2.0, 0.0]]), (4, 1), layout)
    expected = torch.tensor([[0.0, 3.0], [0.0, 0.0], [0.0, 4.0], [0.0, 0.0], [14.0, 0.0]])
    assert torch.equal(scaled if layout == "out-in" else scaled.t(), expected)
    assert not torch.signbit(scaled).any()


def test_conv1d_is_transposed_and_the_tied_head_counts_once(model_dir: Path) -> None:
    model = load_gpt2(model_dir)
    found = {name: (weight, layout) for name, weight, layout in matrices(model)}
    assert len(found) == 2 + 2 * 4
    assert {layout for name, (_, layout) in found.items() if ".h." in name} == {"in-out"}
    assert {layout for name, (_, layout) in found.items() if ".h." not in name} == {"out-in"}
    fan_out = block_sizes(found["transformer.h.0.mlp.c_fc.weight"][0], (4, 1), "in-out")
    assert fan_out.shape == (128 / 4, 32)


def test_an_untied_head_is_a_matrix_of_its_own() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(6, 4), Conv1D(8, 4), torch.nn.Linear(8, 6), torch.nn.LayerNorm(6))
    assert [layout for _, _, layout in matrices(model)] == ["out-in", "in-out", "out-in"]


# ---------------------------------------------------------------------------------------------------------------- mask


def test_mask_takes_the_smallest_and_is_fair_to_small_blocks() -> None:
    norms, sizes = torch.tensor([[2.0, 5.0], [1.5, 2.0]]), torch.tensor([[4, 4], [1, 1]])  # rms 1, 2.5, 1.5, 2
    assert prune_mask(norms, sizes, 0.4).tolist() == [[False, True], [True, True]]
    assert prune_mask(norms, sizes, 0.5).tolist() == [[False, True], [False, True]]
    assert prune_mask(norms, sizes, 0.6).tolist() == [[False, True], [False, False]]


def test_mask_of_equal_blocks_still_meets_the_count() -> None:
    sizes = torch.full((10, 10), 4)
    assert int(prune_mask(torch.zeros(10, 10), sizes, 0.6).sum()) == 40
    assert int(prune_mask(torch.ones(10, 10), sizes, 0.25).sum()) == 75


@given(
    st.integers(1, 41),
    st.integers(1, 13),
    st.tuples(st.integers(1, 5), st.integers(1, 3)),
    st.floats(0, 1),
    st.integers(0, 9),
)
def test_mask_agrees_with_sorting(rows: int, columns: int, block: tuple[int, int], sparsity: float, seed: int) -> None:
    # Rounded, so that many blocks are equal.
    matrix = (torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 3).round()
    norms, sizes = block_norms(matrix, block, "out-in"), block_sizes(matrix, block, "out-in")
    kept = prune_mask(norms, sizes, sparsity)
    scores = norms / sizes.sqrt()
    gone = int(sizes[~kept].sum()) / matrix.numel()
    assert abs(gone - sparsity) <= int(sizes.max()) / 2 / matrix.numel() + 1e-6
    if kept.any() and not kept.all():
        assert scores[~kept].max() <= scores[kept].min()


def test_planted_blocks_are_pruned_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    dead = torch.rand(25, 40, generator=generator).argsort().argsort().flatten() < 24  # 24 of each row's 40
    alive = ~dead.view(25, 40)
    matrix = torch.randn(100, 40, generator=generator).sign() * alive.repeat_interleave(4, 0).clamp(min=0.01)
    for layout, stored in (("out-in", matrix), ("in-out", matrix.t())):
        norms, sizes = block_norms(stored, (4, 1), layout), block_sizes(stored, (4, 1), layout)
        assert torch.equal(prune_mask(norms, sizes, 0.6), alive)


# ------------------------------------------------------------------------------------------------------ proximal step


def test_proximal_shortens_norms_by_the_threshold_and_stops_at_zero() -> None:
    norms, sizes = torch.tensor([[2.0, 0.9, 0.0, 0.5]]), torch.tensor([[4, 4, 4, 1]])
    factors = proximal_factors(norms, sizes, 0.5)
    torch.testing.assert_close(factors * norms, torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    assert proximal_factors(norms, sizes, 0.0).tolist() == [[1.0, 1.0, 0.0, 1.0]]


def test_proximal_solves_its_minimisation() -> None:
    block = torch.tensor([0.3, -1.2, 0.7, 0.1])
    shrunk = block * proximal_factors(block.norm(), torch.tensor(4), 0.2)

    def objective(candidate: Tensor) -> float:
        return float((candidate - block).square().sum() / 2 + 0.2 * 2 * candidate.norm())

    nearby = [shrunk + 0.01 * torch.randn(4, generator=torch.Generator().manual_seed(i)) for i in range(50)]
    assert all(objective(shrunk) < objective(other) for other in nearby)


# ------------------------------------------------------------------------------------------------------------ schedule


def test_cubic_schedule_by_hand() -> None:
    spec = GroupLasso(sparsity=0.8, warmup_share=0.1, ramp_share=0.8)
    at = [cubic_sparsity(step, 100, spec) for step in (0, 10, 50, 90, 100)]
    assert at == pytest.approx([0, 0, 0.8 * 7 / 8, 0.8, 0.8])


@given(
    st.integers(1, 500),
    st.floats(0.01, 0.99),
    st.floats(0, 0.99),
    st.floats(0.001, 1),
)
def test_cubic_schedule_rises_to_the_sparsity(total: int, sparsity: float, warmup: float, ramp: float) -> None:
    spec = GroupLasso(sparsity=sparsity, warmup_share=warmup, ramp_share=min(ramp, 1 - warmup))
    steps = [cubic_sparsity(step, total, spec) for step in range(total + 1)]
    assert steps[0] == 0
    assert steps[-1] == sparsity
    assert steps == sorted(steps)


def test_refuses_a_ramp_longer_than_the_training(model_dir: Path, slice_dir: Path, tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"warmup_share": 0.5, "ramp_share": 0.6})
    with pytest.raises(ValueError, match=r"warmup_share.*ramp_share.*1\.1"):
        group_lasso(spec, model_dir, slice_dir, tmp_path / "target", tmp_path / "work")


# ------------------------------------------------------------------------------------------------------------ training


def test_every_matrix_ends_at_the_sparsity_in_whole_blocks(pruned: tuple[Path, dict[str, Any]]) -> None:
    notes = pruned[1]
    assert notes["matrices"] == len(notes["by_matrix"]) == 10
    for shares in notes["by_matrix"].values():
        assert shares["sparsity"] == pytest.approx(0.6, abs=max(0.001, 4 / shares["weights"]))
        assert shares["block_sparsity"] == shares["sparsity"]
    assert notes["by_matrix"]["transformer.wte.weight"]["blocks"] == 13 * 32  # 51 words: 12 whole rows and a rest of 3
    assert notes["sparsity"] == pytest.approx(0.6, abs=0.001)
    assert notes["sparsity_min"] <= notes["sparsity"] <= notes["sparsity_max"]
    assert notes["steps"] == 12
    json.dumps(notes, allow_nan=False)


def test_zeros_survive_the_reload_and_are_positive(pruned: tuple[Path, dict[str, Any]]) -> None:
    target, notes = pruned
    model = AutoModelForCausalLM.from_pretrained(target)
    report = sparsity_report(model, SPEC.block)
    assert report == {key: notes[key] for key in report}
    assert model.lm_head.weight is model.transformer.wte.weight
    for _, weight, _ in matrices(model):
        assert not torch.signbit(weight[weight == 0]).any()


def test_biases_and_norms_are_left_alone(pruned: tuple[Path, dict[str, Any]]) -> None:
    model = load_gpt2(pruned[0])
    assert all((vector != 0).all() for name, vector in model.named_parameters() if name.endswith("ln_1.weight"))


def test_known_dead_blocks_are_the_ones_pruned(model_dir: Path, slice_dir: Path, tmp_path: Path) -> None:
    model, generator = load_gpt2(model_dir), torch.Generator().manual_seed(0)
    alive = {}
    for name, weight, layout in matrices(model):
        norms, sizes = block_norms(weight.detach(), SPEC.block, layout), block_sizes(weight, SPEC.block, layout)
        alive[name] = prune_mask(torch.rand(norms.shape, generator=generator), sizes, 0.6)
        with torch.no_grad():
            weight.sign_().mul_(0.1)
            scale_blocks(weight, alive[name].clamp(min=1e-4), SPEC.block, layout)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((model_dir / name).read_bytes())
    model.save_pretrained(tmp_path)
    spec = SPEC.model_copy(update={"learning_rate": 1e-4})
    group_lasso(spec, tmp_path, slice_dir, tmp_path / "target", tmp_path / "work")
    for name, weight, layout in matrices(load_gpt2(tmp_path / "target")):
        assert torch.equal(block_norms(weight.detach(), SPEC.block, layout) > 0, alive[name])


def test_a_strong_penalty_takes_no_more_than_asked() -> None:
    norms, sizes = torch.rand(80, 80, generator=torch.Generator().manual_seed(0)), torch.full((80, 80), 4)
    factors = limited(proximal_factors(norms, sizes, 1e3), norms, sizes, 0.6)
    assert float((factors == 0).float().mean()) == pytest.approx(0.6)
    weak = proximal_factors(norms, sizes, 1e-3)
    assert torch.equal(limited(weak, norms, sizes, 0.6), weak)


def test_the_gradient_scaled_rule_by_hand() -> None:
    gradients = torch.tensor([[1.0, 2.0, 4.0, 0.1, 0.0]])
    assert gradient_factors(gradients, 0.2).tolist()[0] == pytest.approx([0.8, 0.9, 0.95, 0.0, 1.0])


@pytest.mark.parametrize("penalty", ["proximal", "gradient-scaled"])
def test_the_penalty_takes_its_share_of_a_median_block(
    penalty: str, model_dir: Path, slice_dir: Path, tmp_path: Path
) -> None:
    """With almost no learning and no sparsity to speak of, only the penalty acts."""
    spec = GroupLasso.model_validate(
        SPEC.model_dump() | {"penalty": penalty, "strength": 0.4, "sparsity": 0.001, "learning_rate": 1e-9}
    )
    group_lasso(spec, model_dir, slice_dir, tmp_path / "target", tmp_path / "work")
    before, after = (block_size_medians(load_gpt2(path), spec.block) for path in (model_dir, tmp_path / "target"))
    inner = [name for name in before if ".h." in name]
    assert np.median([after[name] / before[name] for name in inner]) == pytest.approx(0.6, abs=0.05)


def test_the_share_that_the_penalty_took_is_that_of_before_the_schedule_acts(model_dir: Path) -> None:
    """Without an optimizer only the callback changes weights: sizes before the last step of a block are its own."""
    model, steps = load_gpt2(model_dir), 20
    sizes = block_size_medians(model, SPEC.block)
    callback = PruningCallback(SPEC, sizes)
    first = {name: block_norms(weight.detach(), SPEC.block, layout) for name, weight, layout in matrices(model)}
    last = dict(first)
    for step in range(steps):
        callback.on_optimizer_step(None, SimpleNamespace(global_step=step, max_steps=steps), None, model=model)
        for name, weight, layout in matrices(model):
            norms = block_norms(weight.detach(), SPEC.block, layout)
            last[name] = torch.where(norms > 0, norms, last[name])
    cut = SPEC.strength / round((SPEC.warmup_share + SPEC.ramp_share) * steps)
    shares = []
    for name, weight, layout in matrices(model):
        is_zero = block_norms(weight.detach(), SPEC.block, layout) == 0
        length = cut * sizes[name] * block_sizes(weight, SPEC.block, layout).sqrt()
        shares.append((1 - (last[name] - length).clamp(min=0) / first[name])[is_zero])
    assert callback.penalty_share() == pytest.approx(float(torch.cat(shares).nanmedian()), abs=1e-4)


def test_of_no_pruned_block_the_penalty_took_no_share(model_dir: Path) -> None:
    model, spec = load_gpt2(model_dir), SPEC.model_copy(update={"sparsity": 1e-9})
    callback = PruningCallback(spec, block_size_medians(model, spec.block))
    callback.on_optimizer_step(None, SimpleNamespace(global_step=9, max_steps=10), None, model=model)
    assert callback.penalty_share() is None


def test_the_strength_decides_which_blocks_go(
    model_dir: Path, slice_dir: Path, tmp_path: Path, pruned: tuple[Path, dict[str, Any]]
) -> None:
    weak = SPEC.model_copy(update={"strength": 1e-6})
    notes = group_lasso(weak, model_dir, slice_dir, tmp_path / "target", tmp_path / "work")
    zeros = [
        torch.cat([weight.flatten() == 0 for _, weight, _ in matrices(load_gpt2(path))])
        for path in (pruned[0], tmp_path / "target")
    ]
    assert float((zeros[0] == zeros[1]).float().mean()) < 0.99
    assert notes["penalty_share"] < 1e-5
    assert 0.1 < pruned[1]["penalty_share"] < 1


def test_a_missed_sparsity_is_an_error_that_names_the_matrix(model_dir: Path) -> None:
    model = load_gpt2(model_dir)
    with pytest.raises(RuntimeError, match=r"sparsity.*0\.6.*transformer\.wte\.weight.*0\.0000"):
        check_sparsity(model, SPEC)


def test_a_sparsity_that_leaves_nothing_is_refused(model_dir: Path, slice_dir: Path, tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"sparsity": 0.999999})
    with pytest.raises(ValueError, match=r"group-lasso.sparsity: 0.999999; no block of transformer"):
        group_lasso(spec, model_dir, slice_dir, tmp_path / "target", tmp_path / "work")


# ------------------------------------------------------------------------------------------------------------ resuming


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_save = control.should_training_stop = state.global_step == self.step


@pytest.mark.parametrize("step", [1, 5, 10], ids=["in the warm-up", "in the ramp", "after the ramp"])
def test_resumes_to_the_same_zeros(
    model_dir: Path, slice_dir: Path, tmp_path: Path, pruned: tuple[Path, dict[str, Any]], step: int
) -> None:
    arguments = model_dir, slice_dir, tmp_path / "target", tmp_path / "work"
    fine_tune(
        SPEC,
        *arguments,
        [PruningCallback(SPEC, block_size_medians(load_gpt2(model_dir), SPEC.block)), StopAt(step)],
        decay_share=0.3,
    )
    notes: Any = group_lasso(SPEC, *arguments)
    assert notes["steps"] == 12
    assert notes["dev_loss"] == pytest.approx(pruned[1]["dev_loss"], rel=0.01)
    if step == 10:
        expected = dict(load_gpt2(pruned[0]).named_parameters())
        for name, weight in load_gpt2(tmp_path / "target").named_parameters():
            assert torch.equal(weight == 0, expected[name] == 0)


@pytest.mark.e2e
def test_survives_sigkill(model_dir: Path, slice_dir: Path, tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"epochs": 100, "max_steps": 60})
    target, work = tmp_path / "target", tmp_path / "work"
    command = program_command(TRAIN, spec.model_dump_json(), model_dir, slice_dir, target, work)
    kill_after_first_checkpoint(command, work)
    assert not target.exists()
    notes: Any = group_lasso(spec, model_dir, slice_dir, target, work)
    assert notes["steps"] == 60
    assert notes["sparsity"] == pytest.approx(0.6, abs=0.001)
    assert np.isfinite(notes["dev_loss"])
