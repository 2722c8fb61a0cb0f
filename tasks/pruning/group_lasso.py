"""Group-lasso pruning as published: whole blocks of every matrix go to zero, and the zeros stay in place.

The objective is the textbook one (Yuan & Lin 2006): the loss plus strength * sum over blocks of sqrt(size) * norm.
It is minimised by proximal gradient: after each optimizer step every block's norm is shortened by
strength * rate * sqrt(size) and ends at exactly zero, where the penalty's own gradient, which has no limit at zero,
would only swing around it. Hence that gradient is not computed. Like AdamW's weight decay the shrinkage is decoupled
from Adam's scaling of gradients.

The penalty alone reaches no given sparsity, so, as in the study's library, a schedule decides: after each step of
its ramp the smallest blocks of each matrix are zeroed, as many as the cubic schedule asks for (Zhu & Gupta 2017,
arXiv:1710.01878). They are chosen anew each time, so a block may grow back until the ramp ends; from there on the
choice is fixed, the penalty has done its work and is off, and the blocks that remain recover.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from slimline.tasks.models.loading import load_gpt2
from slimline.tasks.pruning.blocks import Block, Layout, block_norms, block_sizes, matrices, prune_mask, scale_blocks
from slimline.tasks.specs import GroupLasso
from slimline.tasks.training.finetune import Notes, fine_tune

_TOLERANCE = 0.001


def group_lasso(spec: GroupLasso, model_dir: Path, slice_dir: Path, target: Path, work_dir: Path) -> Notes:
    """Fine-tune `model_dir` on the slice while pruning it, and write the result to `target`.

    The rate is held until the ramp's end and falls linearly to zero after it: the recovery is where it is needed.
    Returns `fine_tune`'s notes and `sparsity_report`'s. Raises as `fine_tune` does, ValueError if the ramp would end
    after the training, and RuntimeError if the model on disk has not the sparsity asked for.
    """
    _check_schedule(spec)
    recovery = 1 - spec.warmup_share - spec.ramp_share
    notes = fine_tune(spec, model_dir, slice_dir, target, work_dir, [Pruning(spec)], decay_share=recovery)
    return notes | checked_sparsity(load_gpt2(target), spec)


def cubic_sparsity(step: int, total: int, spec: GroupLasso) -> float:
    """The share of every matrix that is to be zero after `step` of `total` optimizer steps."""
    start, end = spec.warmup_share * total, _ramp_end(total, spec)
    if step >= end:
        return spec.sparsity
    progress = max(0.0, step - start) / (end - start)
    return float(spec.sparsity * (1 - (1 - progress) ** 3))


def proximal(norms: Tensor, sizes: Tensor, threshold: float) -> Tensor:
    """The factor each block is to be multiplied with, [block rows, block columns], 0 to 1: block soft-thresholding.

    Shortens a block's norm by threshold * sqrt(size), to zero at most; a block of zeros gets 0.
    """
    cut = threshold * sizes.sqrt()
    return torch.where(norms > cut, 1 - cut / norms, 0.0)


def block_factors(weight: Tensor, layout: Layout, spec: GroupLasso, rate: float, sparsity: float) -> Tensor:
    """What one step multiplies each block of a matrix with: the penalty's shrinkage, 0 for the `sparsity` smallest.

    The penalty takes at most `spec.sparsity` of the matrix to zero, however strong it is.
    """
    norms, sizes = block_norms(weight, spec.block, layout), block_sizes(weight, spec.block, layout)
    # Unlimited, it would take more: blocks of positions the windows never reach have no gradient to come back by.
    survivors = prune_mask(norms, sizes, spec.sparsity)
    limit = (norms / sizes.sqrt()).masked_fill(survivors, 0.0).max()
    kept = prune_mask(norms, sizes, sparsity)
    return kept * proximal(norms, sizes, min(spec.strength * rate, float(limit)))


class Pruning(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by mypy
    """Applies the penalty and the schedule to the weights after each optimizer step."""

    def __init__(self, spec: GroupLasso) -> None:
        self._spec = spec
        self._kept: dict[str, Tensor] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **_: Any
    ) -> None:
        """After a resumption past the ramp's end, read the final choice from the zeros of the resumed weights."""
        if state.global_step >= _ramp_end(state.max_steps, self._spec):
            for name, weight, layout in matrices(model):
                self._kept[name] = block_norms(weight.detach(), self._spec.block, layout) > 0

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        **_: Any,
    ) -> None:
        """Shrink and prune every matrix; once the choice is final, only keep the pruned blocks at zero."""
        step = state.global_step + 1  # the Trainer counts a step after its callbacks
        final = step >= _ramp_end(state.max_steps, self._spec)
        rate = optimizer.param_groups[0]["lr"]
        sparsity = cubic_sparsity(step, state.max_steps, self._spec)
        with torch.no_grad():
            for name, weight, layout in matrices(model):
                factors = self._kept.get(name)
                if factors is None:
                    factors = block_factors(weight, layout, self._spec, rate, sparsity)
                    if final:
                        self._kept[name] = factors > 0
                scale_blocks(weight, factors, self._spec.block, layout)


def sparsity_report(model: nn.Module, block: Block) -> Notes:
    """What share of a model's matrices is zero: by weights (`sparsity`) and by weights in all-zero blocks.

    Returns matrices (their number), sparsity, block_sparsity, sparsity_min, sparsity_max (over the matrices), and
    by_matrix: name -> {sparsity, block_sparsity, weights, blocks}.
    """
    by_matrix = {name: _shares(weight.detach(), block, layout) for name, weight, layout in matrices(model)}
    weights = sum(shares["weights"] for shares in by_matrix.values())
    overall = {
        key: sum(shares[key] * shares["weights"] for shares in by_matrix.values()) / weights
        for key in ("sparsity", "block_sparsity")
    }
    each = [shares["sparsity"] for shares in by_matrix.values()]
    extremes = {"sparsity_min": min(each), "sparsity_max": max(each)}
    return {"matrices": len(by_matrix), **overall, **extremes, "by_matrix": by_matrix}


def checked_sparsity(model: nn.Module, spec: GroupLasso) -> Notes:
    """`sparsity_report` of a pruned model.

    Raises RuntimeError naming the matrices that miss `spec.sparsity` by more than 0.1 % of their weights (or one
    block, where that is more), in weights or in whole blocks.
    """
    report = sparsity_report(model, spec.block)
    missed = [
        f"{name}: {shares['sparsity']:.4f} ({shares['block_sparsity']:.4f} in whole blocks)"
        for name, shares in report["by_matrix"].items()  # type: ignore[attr-defined]
        for allowed in [max(_TOLERANCE, spec.block[0] * spec.block[1] / shares["weights"])]
        if max(abs(shares[key] - spec.sparsity) for key in ("sparsity", "block_sparsity")) > allowed
    ]
    if missed:
        raise RuntimeError(f"sparsity: {spec.sparsity} asked for, missed by {', '.join(missed)}; strength: lower it")
    return report


def _ramp_end(total: int, spec: GroupLasso) -> int:
    return max(1, round((spec.warmup_share + spec.ramp_share) * total))


def _check_schedule(spec: GroupLasso) -> None:
    ends = spec.warmup_share + spec.ramp_share
    if ends > 1:
        raise ValueError(f"warmup_share + ramp_share: {ends:g}, allowed: at most 1, or the ramp outlasts the training")


def _shares(weight: Tensor, block: Block, layout: Layout) -> dict[str, float]:
    sizes = block_sizes(weight, block, layout)
    zero_blocks = block_norms(weight, block, layout) == 0
    return {
        "sparsity": int((weight == 0).sum()) / weight.numel(),
        "block_sparsity": int(sizes[zero_blocks].sum()) / weight.numel(),
        "weights": weight.numel(),
        "blocks": sizes.numel(),
    }
