"""Structured pruning: neurons, heads, channels and layers are removed, and the model gets smaller.

The result is a stock GPT-2 of a smaller shape, cut on calibration windows without training (`cuts`); what is lost, a
distillation brings back. Of the shapes that meet the target the best one is found by trying (`trials`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from slimline.storage.paths import home
from slimline.tasks.models.checkpoint import read_gpt2_config
from slimline.tasks.models.loading import load_gpt2, save_gpt2
from slimline.tasks.pruning.cuts import cut_by_magnitude
from slimline.tasks.pruning.latency import LatencyTable, latency_table
from slimline.tasks.pruning.residual import channel_map
from slimline.tasks.pruning.shapes import Shape, candidates, largest_shapes, parameters, shape_of
from slimline.tasks.pruning.structures import Selection, extract_model, live_selection
from slimline.tasks.pruning.trials import Cut, best_cut, trial_setup
from slimline.tasks.runtime.host import usable_threads
from slimline.tasks.specs import Slim
from slimline.tasks.training.finetune import Notes

# About the length of a completion in the test split; only the ratio of the two matters for the choice of a shape.
PROMPT_TOKENS, NEW_TOKENS = 320, 10


def slim(spec: Slim, model_dir: Path, slice_dir: Path, target: Path) -> Notes:
    """Remove structures from the model of `model_dir` until it meets the spec's target, and write it to `target`.

    Structures without effect on the output are removed first. If that is enough, nothing else is changed.

    Returns:
        Notes for provenance: shape_before, shape, parameters, dead (the structures without effect), and those of
        `best_cut`.

    Raises:
        ValueError: no smaller stock GPT-2 meets the target, or the slice has fewer windows than the spec asks for.
    """
    model = load_gpt2(model_dir)
    original, is_tied = shape_of(read_gpt2_config(model_dir)), bool(model.config.tie_word_embeddings)
    goal = _goal(spec, original, is_tied)
    live = _stock_selection(model, live_selection(model))
    model = extract_model(model, live)
    notes: Notes = {"shape_before": original._asdict(), "dead": _count_removed(original, live)}
    if not goal.is_met(_shape(model, original)):
        model, found = _cut(spec, model, _shapes(goal, _shape(model, original)), slice_dir, model_dir)
        notes |= found
    save_gpt2(model, model_dir, target)
    shape = _shape(model, original)
    return notes | {"shape": shape._asdict(), "parameters": parameters(shape, is_tied)}


def _cut(spec: Slim, model: GPT2LMHeadModel, shapes: Sequence[Shape], slice_dir: Path, model_dir: Path) -> Cut:
    if spec.importance == "magnitude":
        return Cut(cut_by_magnitude(model, shapes[0]), {})
    return best_cut(model, shapes, trial_setup(spec, slice_dir, model_dir))


class _Goal(NamedTuple):
    """A limit on what a shape costs, in parameters or seconds.

    Attributes:
        field: Of the spec.
        value: The field's.
        cost: Of a shape.
        limit: Of the cost.
        reached: The field's value that would have a cost as its limit.
    """

    field: str
    value: float
    cost: Callable[[Shape], float]
    limit: float
    reached: Callable[[float], float]

    def is_met(self, shape: Shape) -> bool:
        return self.cost(shape) <= self.limit


def _goal(spec: Slim, original: Shape, is_tied: bool) -> _Goal:
    if spec.speedup is not None:
        table = latency_table(original, spec.timed_on, usable_threads(), home() / "latency")
        whole_s = _seconds(table, original)
        return _Goal("speedup", spec.speedup, partial(_seconds, table), whole_s / spec.speedup, lambda s: whole_s / s)
    cost, whole = partial(parameters, tied=is_tied), parameters(original, is_tied)
    if spec.sparsity is not None:
        limit = int((1 - spec.sparsity) * whole)
        return _Goal("sparsity", spec.sparsity, cost, limit, lambda count: 1 - count / whole)
    limit = int((spec.params_m or 0) * 1e6)
    if limit >= whole:
        raise ValueError(f"slim.params_m: {spec.params_m:g}; allowed: less than the model's {whole / 1e6:g}")
    return _Goal("params_m", spec.params_m or 0, cost, limit, lambda count: count / 1e6)


def _seconds(table: LatencyTable, shape: Shape) -> float:
    return table.seconds(shape, PROMPT_TOKENS, NEW_TOKENS)


def _shapes(goal: _Goal, whole: Shape) -> list[Shape]:
    """The shapes smaller than `whole` that meet the goal, the most even in depth and width first."""
    shapes = largest_shapes(whole, goal.is_met)
    if not shapes:
        best = min(map(goal.cost, candidates(whole)), default=goal.cost(whole))
        raise ValueError(
            f"slim.{goal.field}: {goal.value:g}; no shape of this model meets it: what can be reached is "
            f"{goal.reached(best):.4g}"
        )
    return sorted(shapes, key=lambda shape: _unevenness(shape, whole))


def _unevenness(shape: Shape, original: Shape) -> float:
    """Standard deviation of the logarithms of remaining depth, width and inner width: 0 if all shrink equally."""
    pairs = ((shape.layers, original.layers), (shape.width, original.width), (shape.inner, original.inner))
    return float(np.std([np.log(ours / theirs) for ours, theirs in pairs]))


# ------------------------------------------------------------------------------------------- structures without effect


def _stock_selection(model: GPT2LMHeadModel, live: Selection) -> Selection:
    """`live`, and as many other structures as a stock GPT-2 needs: all its layers have as many heads and neurons."""
    each = model.config.n_embd // model.config.n_head
    channels = live.channels.nonzero()[:, 0]
    heads = max([*map(len, live.heads), -(-len(channels) // each), 1])
    neurons = max([*map(len, live.neurons), 1])
    inner = model.transformer.h[0].mlp.c_fc.weight.shape[1]
    layers = live.layers or [0]
    live_heads, live_neurons = (kind or [torch.arange(0)] for kind in (live.heads, live.neurons))
    return Selection(
        layers,
        channel_map(_extend(channels, heads * each, model.config.n_embd), model.config.n_embd),
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
        "channels": original.width - live.channels.shape[1],
        "neurons": original.inner - len(live.neurons[0]),
    }


def _shape(model: GPT2LMHeadModel, original: Shape) -> Shape:
    config = model.config
    return original._replace(
        layers=config.n_layer, heads=config.n_head, width=config.n_embd, inner=config.n_inner or 4 * config.n_embd
    )
