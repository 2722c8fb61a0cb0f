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
from slimline.tasks.pruning.shapes import Shape, largest_shapes, parameters, shape_of
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
    original = shape_of(read_gpt2_config(model_dir))
    goal = _target(spec, original)
    live = _stock_selection(model, live_selection(model))
    model = extract_model(model, live)
    notes: Notes = {"shape_before": original._asdict(), "dead": _count_removed(original, live)}
    if not goal.is_met(_shape(model, original)):
        reachable = [shape for shape in goal.shapes if _is_within(shape, _shape(model, original))]
        model, found = _cut(spec, model, reachable, slice_dir, model_dir)
        notes |= found
    save_gpt2(model, model_dir, target)
    shape = _shape(model, original)
    return notes | {"shape": shape._asdict(), "parameters": parameters(shape)}


def _cut(spec: Slim, model: GPT2LMHeadModel, shapes: Sequence[Shape], slice_dir: Path, model_dir: Path) -> Cut:
    if spec.importance == "magnitude":
        return Cut(cut_by_magnitude(model, shapes[0]), {})
    return best_cut(model, shapes, trial_setup(spec, slice_dir, model_dir))


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
