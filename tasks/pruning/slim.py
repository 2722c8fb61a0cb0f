"""Structured group lasso: the model loses neurons, heads, channels and layers, and gets smaller for it.

The penalty is the group lasso over the structures of `tasks/pruning/structures.py`, each weighted with the root of its
size (Yuan & Lin 2006), minimised by proximal gradient as in `group_lasso`: after every optimizer step each group's
root mean square is shortened by strength * rate. A cubic schedule (Zhu & Gupta 2017, arXiv:1710.01878) zeroes the
smallest groups meanwhile, chosen anew until its end; whole layers fade out on the same schedule. What is zero is then
taken out of the matrices, which leaves a stock GPT-2 of a smaller shape.

Which shape is decided first: of those that meet the target, a few of even proportions are cut out at once and trained
for some steps, and the one of the lowest dev loss is taken (as Minitron, arXiv:2407.14679, ranks its candidates).
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
from slimline.tasks.pruning.shapes import Shape, parameters, shape_of, within_parameters, within_seconds
from slimline.tasks.pruning.structures import (
    Kept,
    Member,
    alive,
    channel_members,
    group_norms,
    head_members,
    neuron_members,
    scale_groups,
    take,
)
from slimline.tasks.pruning.trials import Goal, best_goal, ground_of, layers_by_importance, layers_by_norm, one_shot
from slimline.tasks.runtime.host import usable_threads
from slimline.tasks.specs import Slim
from slimline.tasks.training.finetune import Notes, fine_tune

# A completion of the test split is about this long; only the proportion of the two matters for the choice of a shape.
PROMPT_TOKENS, NEW_TOKENS = 320, 10


def slim(spec: Slim, model_dir: Path, slice_dir: Path, target: Path, work_dir: Path) -> Notes:
    """Take structures out of the model of `model_dir` until it meets the spec's target, and write it to `target`.

    What is dead already goes first, at no cost; if that is enough, nothing is trained.

    Returns the shape before and after, parameters, what was dead, the target, and the training's notes.
    Raises ValueError if no stock GPT-2 within reach meets the target.
    """
    model = load_gpt2(model_dir)
    original = shape_of(read_gpt2_config(model_dir))
    wanted = _target(spec, original)
    live = _stock(model, alive(model))
    model = take(model, live)
    notes: Notes = {"shape_before": original._asdict(), "dead": _counts(original, live)}
    if not wanted.is_met(_shape(model, original)):
        work_dir.mkdir(parents=True, exist_ok=True)
        save_gpt2(model, model_dir, work_dir / "alive")
        model, trained = _trained(spec, wanted.fitting, slice_dir, work_dir)
        notes |= trained
    save_gpt2(model, model_dir, target)
    found = _shape(model, original)
    return notes | {"shape": found._asdict(), "parameters": parameters(found)}


def _trained(spec: Slim, fitting: Sequence[Shape], slice_dir: Path, work_dir: Path) -> tuple[GPT2LMHeadModel, Notes]:
    model = load_gpt2(work_dir / "alive")
    reachable = [shape for shape in fitting if _within(shape, shape_of(read_gpt2_config(work_dir / "alive")))]
    if spec.epochs == 0:
        return one_shot(model, Goal(reachable[0], sorted(layers_by_norm(model)[: reachable[0].layers]))), {}
    ground = ground_of(spec, slice_dir, work_dir / "alive")
    order = layers_by_importance(model, ground)
    goals = [Goal(shape, sorted(order[: shape.layers])) for shape in reachable]
    goal, tried = best_goal(model, goals, ground)
    shrinking = Shrinking(spec, goal)
    notes = fine_tune(spec, work_dir / "alive", slice_dir, work_dir / "trained", work_dir / "trainer", [shrinking])
    whole = load_gpt2(work_dir / "trained")
    small = one_shot(whole, goal)
    return small, notes | {"trials": tried, "removal_max_abs": _distance(whole, small)}


class _Target(NamedTuple):
    """What is asked for: whether a shape meets it, and the shapes that do, the most even in depth and width first."""

    is_met: Callable[[Shape], bool]
    fitting: list[Shape]


def _target(spec: Slim, original: Shape) -> _Target:
    if spec.speedup is not None:
        table = latency_table(original, spec.timed_on, usable_threads(), home() / "latency")
        limit_s = table.seconds(original, PROMPT_TOKENS, NEW_TOKENS) / spec.speedup
        found, asked = (
            within_seconds(
                original, limit_s, partial(table.seconds, prompt_tokens=PROMPT_TOKENS, new_tokens=NEW_TOKENS)
            ),
            f"speedup: {spec.speedup:g}",
        )
        is_met = partial(_is_fast, table, limit_s)
    else:
        limit = int((spec.params_m or 0) * 1e6 or (1 - (spec.sparsity or 0)) * parameters(original))
        found, is_met = within_parameters(original, limit), partial(_is_small, limit)
        asked = f"params_m: {spec.params_m:g}" if spec.params_m else f"sparsity: {spec.sparsity:g}"
    if not found:
        raise ValueError(f"slim.{asked}: no smaller shape of this model meets it; ask for less")
    return _Target(is_met, sorted(found, key=lambda shape: _unevenness(shape, original)))


def _is_small(limit: int, shape: Shape) -> bool:
    return parameters(shape) <= limit


def _is_fast(table: LatencyTable, limit_s: float, shape: Shape) -> bool:
    return table.seconds(shape, PROMPT_TOKENS, NEW_TOKENS) <= limit_s


def _unevenness(shape: Shape, original: Shape) -> float:
    """Spread of how much of depth, width and inner width is left: 0 where all shrink alike."""
    pairs = ((shape.layers, original.layers), (shape.width, original.width), (shape.inner, original.inner))
    return float(np.std([np.log(ours / theirs) for ours, theirs in pairs]))


def _within(shape: Shape, found: Shape) -> bool:
    return shape.layers <= found.layers and shape.heads <= found.heads and shape.inner <= found.inner


# ---------------------------------------------------------------------------------------------------------------- dead


def _stock(model: GPT2LMHeadModel, live: Kept) -> Kept:
    """What lives, and as much of what does not as a stock GPT-2 needs: it has one number of heads and of neurons."""
    each = model.config.n_embd // model.config.n_head
    heads = max([*map(len, live.heads), -(-len(live.channels) // each), 1])
    neurons = max([*map(len, live.neurons), 1])
    inner = model.transformer.h[0].mlp.c_fc.weight.shape[1]
    layers = live.layers or [0]
    live_heads, live_neurons = (kind or [torch.arange(0)] for kind in (live.heads, live.neurons))
    return Kept(
        layers,
        _padded(live.channels, heads * each, model.config.n_embd),
        [_padded(one, heads, model.config.n_head) for one in live_heads],
        [_padded(one, neurons, inner) for one in live_neurons],
    )


def _padded(live: Tensor, count: int, total: int) -> Tensor:
    dead = [index for index in range(total) if index not in set(live.tolist())]
    return torch.tensor(sorted([*live.tolist(), *dead[: count - len(live)]]), dtype=torch.long)


def _counts(original: Shape, live: Kept) -> dict[str, int]:
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
    """Largest difference of a logit that taking out the zeros has made."""
    ids = torch.randint(0, whole.config.vocab_size, (1, 32), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before, after = (model.eval()(ids, use_cache=False).logits for model in (whole, small))
    return float((before - after).abs().max())


# ----------------------------------------------------------------------------------------------------------- the lasso


class Shrinking(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by mypy
    """Applies penalty and schedule to the structures after each optimizer step."""

    def __init__(self, spec: Slim, goal: Goal) -> None:
        self._spec = spec
        self._goal = goal
        self._kept: dict[str, Tensor] = {}

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        **_: Any,
    ) -> None:
        """Shrink all groups and zero the smallest; from the schedule's end on only keep the zeros."""
        done = cubic((state.global_step + 1) / max(1, round(self._spec.ramp_share * state.max_steps)))
        threshold = self._spec.strength * optimizer.param_groups[0]["lr"]
        with torch.no_grad():
            for name, members, count in self._kinds(model):
                factors = self._kept.get(name)
                if factors is None:
                    factors = group_factors(group_norms(members), count, done, threshold)
                    if done == 1:
                        self._kept[name] = (factors > 0).float()
                scale_groups(members, factors)
            self._fade(model, cubic(state.global_step / max(1, self._spec.ramp_share * state.max_steps)), done)

    def _kinds(self, model: Any) -> list[tuple[str, list[Member], int]]:
        """Each kind of group: its name, its members, how many of it stay."""
        shape = self._goal.shape
        found = [("channels", channel_members(model), shape.width)]
        for layer in self._goal.layers:
            block = model.transformer.h[layer]
            found.append((f"heads {layer}", head_members(block, model.config.n_head), shape.heads))
            found.append((f"neurons {layer}", neuron_members(block), shape.inner))
        return found

    def _fade(self, model: Any, before: float, done: float) -> None:
        """Layers to go write less and less: 1 - done of what they would."""
        factor = (1 - done) / (1 - before) if before < 1 else 0.0
        for number, block in enumerate(model.transformer.h):
            if number not in self._goal.layers:
                for projection in (block.attn.c_proj, block.mlp.c_proj):
                    projection.weight.mul_(factor)
                    projection.bias.mul_(factor)


def cubic(progress: float) -> float:
    """How much of the work is done, 0 to 1, at a share of the schedule: fast at first, slow at the end."""
    return float(1 - (1 - min(1.0, progress)) ** 3)


def group_factors(norms: Tensor, count: int, done: float, threshold: float) -> Tensor:
    """What one step multiplies each group with, [groups]: soft-thresholding, and 0 for the smallest.

    `count` groups stay in the end; of the others the share `done` is zero already. The penalty never takes a group
    below the smallest that is to stay, so it cannot take more than was asked for.
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
