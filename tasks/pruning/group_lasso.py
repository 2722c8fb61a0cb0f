"""Group-lasso pruning after the published recipe: blocks of every matrix become zero, and stay in it as zeros.

Two penalties are offered, which shrink the blocks after each optimizer step until the ramp ends:

- `proximal` is the textbook's (Yuan & Lin 2006): the loss plus lambda * sum over blocks of sqrt(size) * norm, minimised
  by proximal gradient. Each step reduces every block's root mean square by the same length, to exactly zero at most.
  The penalty's gradient is not used, because it is not defined at zero and weights would oscillate there.
- `gradient-scaled` is the rule of Intel Neural Compressor's own "group lasso" (compression/pruner/regs.py up to 3.7):
  each step multiplies a block by 1 - alpha / norm(gradient of the block). The library lets that factor become negative,
  which ends in weights that are not finite; here it is 0 at least.

How strong a penalty is depends on how large the weights are. So `strength` is relative: until the ramp ends the penalty
takes that share of the median block's size, in equal steps.

The penalty alone does not reach a given sparsity. So, as in the library of the reproduced study, a schedule decides:
after each step of its ramp the smallest blocks of each matrix are set to zero, as many as a cubic schedule requires
(Zhu & Gupta 2017, arXiv:1710.01878). They are chosen again after each step, so a block may grow back until the ramp
ends. Then the choice is fixed, the penalty is off, and the remaining blocks recover.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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

    The learning rate is constant until the end of the ramp, then falls linearly to zero during the recovery.

    Returns:
        The notes of `fine_tune` and of `sparsity_report`; and penalty_share, what the penalty takes of a pruned block's
        size in the median, before the schedule makes it zero (none if the training was resumed).

    Raises:
        ValueError: the ramp would end after the training, or of a matrix nothing would be left; or as `fine_tune`.
        RuntimeError: the model on disk does not have the requested sparsity.
    """
    _check_schedule(spec)
    recovery = 1 - spec.warmup_share - spec.ramp_share
    before = load_gpt2(model_dir)
    _check_something_remains(spec, before)
    callback = PruningCallback(spec, block_size_medians(before, spec.block))
    notes = fine_tune(spec, model_dir, slice_dir, target, work_dir, [callback], decay_share=recovery)
    return notes | check_sparsity(load_gpt2(target), spec) | {"penalty_share": callback.penalty_share()}


def cubic_sparsity(step: int, total: int, spec: GroupLasso) -> float:
    """The share of every matrix that is to be zero after `step` of `total` optimizer steps."""
    start, end = spec.warmup_share * total, _ramp_end(total, spec)
    if step >= end:
        return spec.sparsity
    progress = max(0.0, step - start) / (end - start)
    return float(spec.sparsity * (1 - (1 - progress) ** 3))


def proximal_factors(norms: Tensor, sizes: Tensor, threshold: float) -> Tensor:
    """Factors of the proximal step (block soft-thresholding), [block rows, block columns], 0 to 1.

    They reduce a block's norm by threshold * sqrt(size), to zero at most; the factor of a block of zeros is 0.
    """
    cut = threshold * sizes.sqrt()
    return torch.where(norms > cut, 1 - cut / norms, 0.0)


def gradient_factors(gradients: Tensor, share: float) -> Tensor:
    """Factors of Neural Compressor's rule, [block rows, block columns], 0 to 1; 1 without a gradient.

    Args:
        gradients: Norm of each block's gradient, [block rows, block columns].
        share: By which a block with the median norm of them shrinks.
    """
    factors = (1 - share * gradients.median() / gradients).clamp(min=0.0)
    return torch.where(gradients > 0, factors, 1.0)


def limited(factors: Tensor, norms: Tensor, sizes: Tensor, sparsity: float) -> Tensor:
    """The factors, but none of 0 for more than the share `sparsity` of the weights.

    Without this limit a penalty would zero more: blocks of positions beyond the windows have no gradient and never
    recover. The blocks that must remain, but would be zero, stay as they are.
    """
    return torch.where(prune_mask(norms, sizes, sparsity) & (factors == 0), 1.0, factors)


def block_size_medians(model: nn.Module, block: Block) -> dict[str, float]:
    """Of each matrix by name: the median root mean square of its blocks that are not zero."""
    found = {}
    for name, weight, layout in matrices(model):
        scores = block_norms(weight.detach(), block, layout) / block_sizes(weight, block, layout).sqrt()
        found[name] = float(scores[scores > 0].median()) if scores.any() else 0.0
    return found


class PruningCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by mypy
    """Apply the penalty and the schedule to the weights after each optimizer step."""

    def __init__(self, spec: GroupLasso, sizes: Mapping[str, float]) -> None:
        """Prepare for a training.

        Args:
            spec: Its spec.
            sizes: `block_size_medians` before the training.
        """
        self._spec = spec
        self._sizes = sizes
        self._masks: dict[str, Tensor] = {}
        """Of the blocks that remain, by matrix, once the choice is final."""
        self._left: dict[str, Tensor] = {}
        """Of each block, by matrix, the share of its size that the penalty leaves until the schedule makes it zero."""
        self._were_pruned: dict[str, Tensor] = {}
        self._is_resumed = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **_: Any
    ) -> None:
        """Read the final choice from the zeros of the weights, if the training resumes after the end of the ramp."""
        self._is_resumed = state.global_step > 0
        if state.global_step >= _ramp_end(state.max_steps, self._spec):
            for name, weight, layout in matrices(model):
                self._masks[name] = block_norms(weight.detach(), self._spec.block, layout) > 0

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **_: Any
    ) -> None:
        """Shrink and prune every matrix; when the choice is final, only keep the pruned blocks at zero."""
        step = state.global_step + 1  # the Trainer counts a step after its callbacks
        with torch.no_grad():
            for name, weight, layout in matrices(model):
                factors = self._masks.get(name)
                if factors is None:
                    factors = self._factors(name, weight, layout, step, state.max_steps)
                scale_blocks(weight, factors, self._spec.block, layout)

    def _factors(self, name: str, weight: nn.Parameter, layout: Layout, step: int, total: int) -> Tensor:
        """Of one step for the blocks of a matrix: the penalty's, and 0 for as many as the schedule requires."""
        spec = self._spec
        norms, sizes = block_norms(weight, spec.block, layout), block_sizes(weight, spec.block, layout)
        share = spec.strength / _ramp_end(total, spec)
        if spec.penalty == "proximal":
            factors = proximal_factors(norms, sizes, share * self._sizes[name])
        else:
            factors = gradient_factors(block_norms(weight.grad, spec.block, layout), share)
        penalty = limited(factors, norms, sizes, spec.sparsity)
        kept = prune_mask(norms * penalty, sizes, cubic_sparsity(step, total, spec))
        self._note_shares(name, norms, penalty, kept)
        factors = kept * penalty
        if step >= _ramp_end(total, spec):
            self._masks[name] = factors > 0
        return factors

    def _note_shares(self, name: str, norms: Tensor, penalty: Tensor, kept: Tensor) -> None:
        left = self._left.setdefault(name, torch.where(norms > 0, 1.0, torch.nan))
        were_pruned = self._were_pruned.setdefault(name, torch.zeros_like(kept))
        left *= torch.where(were_pruned, 1.0, penalty)
        were_pruned |= ~kept

    def penalty_share(self) -> float | None:
        """Of the blocks that are pruned in the end, if any: the median share of their size that the penalty took."""
        if self._is_resumed or not self._masks:
            return None
        left = float(torch.cat([left[~self._masks[name]] for name, left in self._left.items()]).nanmedian())
        return None if math.isnan(left) else 1 - left


def sparsity_report(model: nn.Module, block: Block) -> Notes:
    """Shares of zeros in a model's matrices.

    Returns:
        matrices: Their number.
        sparsity: Share of weights that are zero.
        block_sparsity: Share of weights in blocks of zeros.
        sparsity_min, sparsity_max: Smallest and largest `sparsity` of a matrix.
        by_matrix: By name {sparsity, block_sparsity, weights, blocks}; the last two are numbers.
    """
    return _report(_matrix_shares(model, block))


def _report(by_matrix: dict[str, dict[str, float]]) -> Notes:
    weights = sum(shares["weights"] for shares in by_matrix.values())
    overall = {
        key: sum(shares[key] * shares["weights"] for shares in by_matrix.values()) / weights
        for key in ("sparsity", "block_sparsity")
    }
    each = [shares["sparsity"] for shares in by_matrix.values()]
    extremes = {"sparsity_min": min(each), "sparsity_max": max(each)}
    return {"matrices": len(by_matrix), **overall, **extremes, "by_matrix": by_matrix}


def check_sparsity(model: nn.Module, spec: GroupLasso) -> Notes:
    """`sparsity_report` of a pruned model, after a check of every matrix.

    Raises:
        RuntimeError: a matrix misses `spec.sparsity` by more than 0.1 % of its weights (or one block, where that is
            more), in weights or in whole blocks; the message names it.
    """
    by_matrix = _matrix_shares(model, spec.block)
    missed = [
        f"{name}: {shares['sparsity']:.4f} ({shares['block_sparsity']:.4f} in whole blocks)"
        for name, shares in by_matrix.items()
        for allowed in [max(_TOLERANCE, spec.block[0] * spec.block[1] / shares["weights"])]
        if max(abs(shares[key] - spec.sparsity) for key in ("sparsity", "block_sparsity")) > allowed
    ]
    if missed:
        raise RuntimeError(f"sparsity: {spec.sparsity} is missed by {', '.join(missed)}; use a lower strength")
    return _report(by_matrix)


def _ramp_end(total: int, spec: GroupLasso) -> int:
    return max(1, round((spec.warmup_share + spec.ramp_share) * total))


def _check_schedule(spec: GroupLasso) -> None:
    ends = spec.warmup_share + spec.ramp_share
    if ends > 1:
        raise ValueError(f"warmup_share + ramp_share: {ends:g}; allowed: at most 1, the whole training")


def _check_something_remains(spec: GroupLasso, model: nn.Module) -> None:
    for name, weight, layout in matrices(model):
        norms, sizes = block_norms(weight.detach(), spec.block, layout), block_sizes(weight, spec.block, layout)
        if not prune_mask(norms, sizes, spec.sparsity).any():
            raise ValueError(f"group-lasso.sparsity: {spec.sparsity}; no block of {name} is left, of {sizes.numel()}")


def _matrix_shares(model: nn.Module, block: Block) -> dict[str, dict[str, float]]:
    return {name: _shares(weight.detach(), block, layout) for name, weight, layout in matrices(model)}


def _shares(weight: Tensor, block: Block, layout: Layout) -> dict[str, float]:
    sizes = block_sizes(weight, block, layout)
    zero_blocks = block_norms(weight, block, layout) == 0
    return {
        "sparsity": int((weight == 0).sum()) / weight.numel(),
        "block_sparsity": int(sizes[zero_blocks].sum()) / weight.numel(),
        "weights": weight.numel(),
        "blocks": sizes.numel(),
    }
