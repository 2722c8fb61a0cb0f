"""Structured pruning by group lasso: neurons, heads, channels and layers are removed, and the model gets smaller.

The penalty is the group lasso over the structures of `tasks/pruning/structures.py`, each weighted by the square root of
its size (Yuan & Lin 2006), minimised by proximal gradient as in `group_lasso`: after every optimizer step a proximal
step reduces each group's root mean square by strength * rate. A cubic schedule (Zhu & Gupta 2017, arXiv:1710.01878)
sets the smallest groups to zero, which are chosen again after each step until its end; whole layers are scaled down on
the same schedule. The zeros are then removed from the matrices, which gives a stock GPT-2 of a smaller shape.

The shape is chosen first. Of the shapes that meet the target, a few of even proportions are pruned in one shot and
trained for some steps; the one with the lowest dev loss is used (as Minitron, arXiv:2407.14679, ranks its candidates).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from slimline.storage.paths import home
from slimline.tasks.models.checkpoint import read_gpt2_config
from slimline.tasks.models.loading import load_gpt2, save_gpt2
from slimline.tasks.pruning.latency import LatencyTable, latency_table
from slimline.tasks.pruning.shapes import Shape, largest_shapes, parameters, shape_of
from slimline.tasks.pruning.structures import (
    Member,
    Selection,
    channel_members,
    extract_model,
    group_norms,
    head_members,
    live_selection,
    neuron_members,
    scale_groups,
)
from slimline.tasks.pruning.trials import (
    Goal,
    best_goal,
    layers_by_importance,
    layers_by_norm,
    prune_one_shot,
    trial_setup,
)
from slimline.tasks.runtime.host import usable_threads
from slimline.tasks.specs import Slim
from slimline.tasks.training.finetune import Notes, fine_tune

# About the length of a completion in the test split; only the ratio of the two matters for the choice of a shape.
PROMPT_TOKENS, NEW_TOKENS = 320, 10


def slim(spec: Slim, model_dir: Path, slice_dir: Path, target: Path, work_dir: Path) -> Notes:
    """Remove structures from the model of `model_dir` until it meets the spec's target, and write it to `target`.

    Structures without effect on the output are removed first. If that is enough, nothing is trained.

    Returns:
        Notes for provenance: shape_before, shape, parameters, dead (the structures without effect), trials and the
        notes of `fine_tune`.

    Raises:
        ValueError: no smaller stock GPT-2 meets the target.
    """
    model = load_gpt2(model_dir)
    original = shape_of(read_gpt2_config(model_dir))
    goal = _target(spec, original)
    live = _stock_selection(model, live_selection(model))
    model = extract_model(model, live)
    notes: Notes = {"shape_before": original._asdict(), "dead": _count_removed(original, live)}
    if not goal.is_met(_shape(model, original)):
        work_dir.mkdir(parents=True, exist_ok=True)
        save_gpt2(model, model_dir, work_dir / "live")
        model, training = _prune(spec, goal.shapes, slice_dir, work_dir)
        notes |= training
    save_gpt2(model, model_dir, target)
    found = _shape(model, original)
    return notes | {"shape": found._asdict(), "parameters": parameters(found)}


def _prune(spec: Slim, shapes: Sequence[Shape], slice_dir: Path, work_dir: Path) -> tuple[GPT2LMHeadModel, Notes]:
    """The model of `work_dir`/live pruned to the best of `shapes`, and notes."""
    live_dir, trained_dir = work_dir / "live", work_dir / "trained"
    model = load_gpt2(live_dir)
    reachable = [shape for shape in shapes if _is_within(shape, shape_of(read_gpt2_config(live_dir)))]
    if spec.epochs == 0:
        return prune_one_shot(model, Goal(reachable[0], sorted(layers_by_norm(model)[: reachable[0].layers]))), {}
    setup = trial_setup(spec, slice_dir, live_dir)
    order = layers_by_importance(model, setup)
    goals = [Goal(shape, sorted(order[: shape.layers])) for shape in reachable]
    goal, trials = best_goal(model, goals, setup)
    notes = fine_tune(spec, live_dir, slice_dir, trained_dir, work_dir / "trainer", [ShrinkageCallback(spec, goal)])
    whole = load_gpt2(trained_dir)
    small = prune_one_shot(whole, goal)
    return small, notes | {"trials": trials, "removal_max_abs": _distance(whole, small)}


class _Target(NamedTuple):
    """The condition that a shape must meet, and the shapes that meet it, the most even in depth and width first."""

    is_met: Callable[[Shape], bool]
    shapes: list[Shape]


def _target(spec: Slim, original: Shape) -> _Target:
    if spec.speedup is not None:
        table = latency_table(original, spec.timed_on, usable_threads(), home() / "latency")
        limit_s = table.seconds(original, PROMPT_TOKENS, NEW_TOKENS) / spec.speedup
        is_met, field = partial(_is_fast, table, limit_s), f"speedup: {spec.speedup:g}"
    else:
        limit = int((spec.params_m or 0) * 1e6 or (1 - (spec.sparsity or 0)) * parameters(original))
        is_met = partial(_is_small, limit)
        field = f"params_m: {spec.params_m:g}" if spec.params_m else f"sparsity: {spec.sparsity:g}"
    shapes = largest_shapes(original, is_met)
    if not shapes:
        raise ValueError(f"slim.{field}: no smaller shape of this model meets it; use a target that is easier to meet")
    return _Target(is_met, sorted(shapes, key=lambda shape: _unevenness(shape, original)))


def _is_small(limit: int, shape: Shape) -> bool:
    return parameters(shape) <= limit


def _is_fast(table: LatencyTable, limit_s: float, shape: Shape) -> bool:
    return table.seconds(shape, PROMPT_TOKENS, NEW_TOKENS) <= limit_s


def _unevenness(shape: Shape, original: Shape) -> float:
    """Standard deviation of the logarithms of remaining depth, width and inner width: 0 if all shrink equally."""
    pairs = ((shape.layers, original.layers), (shape.width, original.width), (shape.inner, original.inner))
    return float(np.std([np.log(ours / theirs) for ours, theirs in pairs]))


def _is_within(shape: Shape, limits: Shape) -> bool:
    return shape.layers <= limits.layers and shape.heads <= limits.heads and shape.inner <= limits.inner


# ------------------------------------------------------------------------------------------- structures without effect


def _stock_selection(model: GPT2LMHeadModel, live: Selection) -> Selection:
    """`live`, and as many other structures as a stock GPT-2 needs: all its layers have as many heads and neurons."""
    each = model.config.n_embd // model.config.n_head
    heads = max([*map(len, live.heads), -(-len(live.channels) // each), 1])
    neurons = max([*map(len, live.neurons), 1])
    inner = model.transformer.h[0].mlp.c_fc.weight.shape[1]
    layers = live.layers or [0]
    live_heads, live_neurons = (kind or [torch.arange(0)] for kind in (live.heads, live.neurons))
    return Selection(
        layers,
        _extend(live.channels, heads * each, model.config.n_embd),
        [_extend(one, heads, model.config.n_head) for one in live_heads],
        [_extend(one, neurons, inner) for one in live_neurons],
    )


def _extend(indices: Tensor, count: int, total: int) -> Tensor:
    """`indices` and the first others below `total`, `count` in all, ascending."""
    others = [index for index in range(total) if index not in set(indices.tolist())]
    return torch.tensor(sorted([*indices.tolist(), *others[: count - len(indices)]]), dtype=torch.long)


def _count_removed(original: Shape, live: Selection) -> dict[str, int]:
    return {
        "layers": original.layers - len(live.layers),
        "heads": original.heads - len(live.heads[0]),
        "channels": original.width - len(live.channels),
        "neurons": original.inner - len(live.neurons[0]),
    }


def _shape(model: GPT2LMHeadModel, original: Shape) -> Shape:
    config = model.config
    return original._replace(
        layers=config.n_layer, heads=config.n_head, width=config.n_embd, inner=config.n_inner or 4 * config.n_embd
    )


def _distance(whole: GPT2LMHeadModel, small: GPT2LMHeadModel) -> float:
    """Largest difference of a logit between the model with zeros and the small one."""
    ids = torch.randint(0, whole.config.vocab_size, (1, 32), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before, after = (model.eval()(ids, use_cache=False).logits for model in (whole, small))
    return float((before - after).abs().max())


# ----------------------------------------------------------------------------------------------------------- the lasso


class ShrinkageCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by mypy
    """Apply the penalty and the schedule to the structures after each optimizer step."""

    def __init__(self, spec: Slim, goal: Goal) -> None:
        self._spec = spec
        self._goal = goal
        self._masks: dict[str, Tensor] = {}
        """1 for the groups that remain, by kind of group, once the choice is final."""

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        **_: Any,
    ) -> None:
        """Shrink all groups and set the smallest to zero; after the schedule's end only keep the zeros."""
        done = cubic_schedule((state.global_step + 1) / max(1, round(self._spec.ramp_share * state.max_steps)))
        threshold = self._spec.strength * optimizer.param_groups[0]["lr"]
        with torch.no_grad():
            for name, members, count in self._kinds(model):
                factors = self._masks.get(name)
                if factors is None:
                    factors = group_factors(group_norms(members), count, done, threshold)
                    if done == 1:
                        self._masks[name] = (factors > 0).float()
                scale_groups(members, factors)
            self._scale_layers(
                model, cubic_schedule(state.global_step / max(1, self._spec.ramp_share * state.max_steps)), done
            )

    def _kinds(self, model: Any) -> list[tuple[str, list[Member], int]]:
        """Each kind of group: its name, its members, and how many groups remain in the end."""
        shape = self._goal.shape
        found = [("channels", channel_members(model), shape.width)]
        for layer in self._goal.layers:
            block = model.transformer.h[layer]
            found.append((f"heads {layer}", head_members(block, model.config.n_head), shape.heads))
            found.append((f"neurons {layer}", neuron_members(block), shape.inner))
        return found

    def _scale_layers(self, model: Any, before: float, done: float) -> None:
        """Scale the output of the layers to remove by 1 - done; `before` is `done` of the last step."""
        factor = (1 - done) / (1 - before) if before < 1 else 0.0
        for number, block in enumerate(model.transformer.h):
            if number not in self._goal.layers:
                for projection in (block.attn.c_proj, block.mlp.c_proj):
                    projection.weight.mul_(factor)
                    projection.bias.mul_(factor)


def cubic_schedule(progress: float) -> float:
    """Finished share of the pruning, 0 to 1, at a share of the schedule's steps: fast at first, slow at the end."""
    return float(1 - (1 - min(1.0, progress)) ** 3)


def group_factors(norms: Tensor, count: int, done: float, threshold: float) -> Tensor:
    """Factors of one step, [groups]: soft-thresholding, and 0 for the smallest groups.

    The threshold is limited such that the penalty never sets more groups to zero than the goal requires.

    Args:
        norms: Root mean square of each group, [groups].
        count: Groups that remain in the end.
        done: Share of the other groups that are zero now.
        threshold: By which each norm is reduced.
    """
    surplus = len(norms) - count
    if not surplus:
        return torch.ones_like(norms)
    order = norms.argsort()
    cut = min(threshold, float(norms[order[surplus - 1]]))
    factors = torch.where(norms > cut, 1 - cut / norms, 0.0)
    factors[order[surplus:]] = torch.where(norms > cut, 1 - cut / norms, 1.0)[order[surplus:]]
    factors[order[: round(done * surplus)]] = 0.0
    return factors
