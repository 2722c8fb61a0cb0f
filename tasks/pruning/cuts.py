"""Cutting a GPT-2 to a smaller shape without training: what is least needed goes, and what remains takes over its part.

Heads and neurons go by the optimal brain surgeon, which also repairs their output projections; channels by a rotation
of the residual stream to its principal components; layers by the loss of the model without them (ShortGPT,
arXiv:2403.03853, removes layers whole). All is decided on the same calibration windows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from slimline.tasks.data.packing import Windows
from slimline.tasks.pruning.brain_surgeon import Repaired, absorb, eliminate, members, repair
from slimline.tasks.pruning.moments import Moments, model_moments
from slimline.tasks.pruning.residual import channel_map, fold_norms, norm_ratios, principal_map
from slimline.tasks.pruning.shapes import Shape
from slimline.tasks.pruning.structures import (
    Member,
    Selection,
    channel_members,
    extract_model,
    group_norms,
    head_members,
    neuron_members,
)
from slimline.tasks.runtime.progress import track

Loss = Callable[[GPT2LMHeadModel], float]

# Tokens per neuron, from which on what looks redundant is so, and not for lack of tokens.
_ENOUGH = 4


class Pruned(NamedTuple):
    """A model whose removed heads and neurons have no effect, and of each layer those that remain, ascending."""

    model: GPT2LMHeadModel
    heads: list[Tensor]
    neurons: list[Tensor]


class Cutter:
    """Cuts one model, with given layers, to any shape: its importance and moments are computed once."""

    def __init__(self, model: GPT2LMHeadModel, layers: Sequence[int], windows: Windows, fewest_neurons: int) -> None:
        """Measure the model without its other layers.

        Args:
            model: The whole model, which does not change.
            layers: Ascending indices of the layers that remain.
            windows: Calibration windows.
            fewest_neurons: Of any shape that will be asked for; less is more work.
        """
        self._model = without_layers(model, layers)
        self._each = model.config.n_embd // model.config.n_head
        self._moments = model_moments(self._model, windows)
        blocks = list(self._model.transformer.h)
        if windows.size >= _ENOUGH * blocks[0].mlp.c_proj.weight.shape[0]:
            self._merge_superfluous()
        self._heads = [
            eliminate(moments, block.attn.c_proj.weight, self._each, model.config.n_head - 1)
            for block, moments in zip(blocks, self._moments.heads, strict=True)
        ]
        self._neurons = [
            eliminate(moments, block.mlp.c_proj.weight, 1, block.mlp.c_proj.weight.shape[0] - fewest_neurons)
            for block, moments in track(zip(blocks, self._moments.neurons, strict=True), "ranking neurons", len(blocks))
        ]

    def _merge_superfluous(self) -> None:
        for number, block in enumerate(self._model.transformer.h):
            for projection, moments, size in (
                (block.attn.c_proj, self._moments.heads[number], self._each),
                (block.mlp.c_proj, self._moments.neurons[number], 1),
            ):
                _put(projection, absorb(moments, projection.weight, projection.bias, size))

    def cut(self, shape: Shape) -> GPT2LMHeadModel:
        """The model in a shape of as many layers as it has, and at least `fewest_neurons`."""
        model, heads, neurons = self.pruned(shape.heads, shape.inner)
        channels = channel_map(torch.arange(shape.width), shape.width)
        if shape.width < model.config.n_embd:
            fold_norms(model)
            channels = principal_map(self._moments.norms, shape.width)
        selection = Selection(list(range(shape.layers)), channels, heads, neurons)
        return extract_model(model, selection, norm_ratios(self._moments.norms, channels))

    def pruned(self, heads: int, neurons: int) -> Pruned:
        """The model in its whole width, with only the most needed heads and neurons, and repaired."""
        total = len(self._moments.neurons[0].mean)
        kept_heads = [one.kept(heads, self._model.config.n_head) for one in self._heads]
        return self.keep(kept_heads, [one.kept(neurons, total) for one in self._neurons])

    def keep(self, heads: list[Tensor], neurons: list[Tensor]) -> Pruned:
        """The model in its whole width, with only these heads and neurons of each layer, ascending, and repaired."""
        model = copy.deepcopy(self._model)
        for number, block in enumerate(model.transformer.h):
            _repair(block.attn.c_proj, self._moments.heads[number], members(heads[number], self._each))
            _repair(block.mlp.c_proj, self._moments.neurons[number], neurons[number])
        return Pruned(model, heads, neurons)


def without_layers(model: GPT2LMHeadModel, layers: Sequence[int]) -> GPT2LMHeadModel:
    """A copy of a model with only these layers."""
    blocks = list(model.transformer.h)
    model.transformer.h = nn.ModuleList()
    try:
        fewer = copy.deepcopy(model)
    finally:
        model.transformer.h = nn.ModuleList(blocks)
    fewer.transformer.h = nn.ModuleList(copy.deepcopy(blocks[layer]) for layer in layers)
    for number, block in enumerate(fewer.transformer.h):
        block.attn.layer_idx = number
    fewer.config.n_layer = len(fewer.transformer.h)
    return fewer


def rank_layers(model: GPT2LMHeadModel, loss: Loss, fewest: int = 1) -> list[int]:
    """Layers in the order in which they are removed: each is the one without which the loss is lowest.

    Args:
        model: Which is as before when this returns.
        loss: What is measured.
        fewest: Layers that are to remain, which are not in the result.
    """
    blocks = list(model.transformer.h)
    remaining, removed = list(range(len(blocks))), []
    try:
        for _ in track(range(len(blocks) - fewest), "ranking layers", len(blocks) - fewest):
            losses = {}
            for layer in remaining:
                model.transformer.h = nn.ModuleList(blocks[other] for other in remaining if other != layer)
                losses[layer] = loss(model)
            removed.append(min(remaining, key=losses.__getitem__))
            remaining.remove(removed[-1])
    finally:
        model.transformer.h = nn.ModuleList(blocks)
    return removed


def cut_by_magnitude(model: GPT2LMHeadModel, shape: Shape) -> GPT2LMHeadModel:
    """The model in a smaller shape, without calibration: the groups of the largest root mean square remain.

    On trained models this is no better than chance (docs/compression.md); random weights have nothing to lose.
    """
    sizes = [sum(float(weight.detach().square().sum()) for weight in one.parameters()) for one in model.transformer.h]
    layers = sorted(sorted(range(len(sizes)), key=lambda layer: -sizes[layer])[: shape.layers])
    blocks = [model.transformer.h[layer] for layer in layers]
    channels = channel_map(_largest(channel_members(model), shape.width), model.config.n_embd)
    heads = [_largest(head_members(block, model.config.n_head), shape.heads) for block in blocks]
    neurons = [_largest(neuron_members(block), shape.inner) for block in blocks]
    return extract_model(model, Selection(layers, channels, heads, neurons))


def _largest(members: Sequence[Member], count: int) -> Tensor:
    return group_norms(members).topk(count).indices.sort().values


def _repair(projection: nn.Module, moments: Moments, kept: Tensor) -> None:
    """Let the inputs `kept` of a projection take over the part of the others, in place."""
    if len(kept) == len(moments.mean):
        return
    weight, bias = repair(moments, projection.weight, projection.bias, kept)
    _put(projection, Repaired(torch.zeros_like(projection.weight).index_copy(0, kept, weight), bias))


def _put(projection: nn.Module, found: Repaired) -> None:
    with torch.no_grad():
        projection.weight.copy_(found.weight)
        projection.bias.copy_(found.bias)
