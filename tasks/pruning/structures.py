"""Structures that can be removed from a GPT-2: feed-forward neurons, attention heads, residual channels, layers.

Weights that must be removed together are one group (the dependency groups of Fang et al. 2023, arXiv:2301.12900). A
channel of the residual stream has a column of the embeddings (and so of the tied head), a row or column of every
projection, and an entry of every LayerNorm. A head has columns of queries, keys and values, and rows of the output
projection. A neuron has a column, a bias and a row.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from slimline.tasks.pruning.moments import norm_modules
from slimline.tasks.pruning.residual import channel_map


class Selection(NamedTuple):
    """The structures to keep.

    Attributes:
        layers: Ascending indices.
        channels: Map of the residual stream to the channels that remain, [width, channels], of orthonormal columns.
        heads: For each layer of `layers`, ascending indices of its heads.
        neurons: For each layer of `layers`, ascending indices of its feed-forward neurons.
    """

    layers: list[int]
    channels: Tensor
    heads: list[Tensor]
    neurons: list[Tensor]


class Member(NamedTuple):
    """A tensor that, in the shape `view`, has the groups of a kind along the dimension `dim`."""

    tensor: Tensor
    view: tuple[int, ...]
    dim: int

    def squares(self) -> Tensor:
        """[groups]: the sum of squares of each group's weights in this tensor."""
        squares = self.tensor.detach().view(self.view).square()
        others = [dim for dim in range(squares.ndim) if dim != self.dim]
        return squares.sum(others) if others else squares

    @property
    def width(self) -> int:
        """Weights of one group in this tensor."""
        return int(self.tensor.numel()) // self.view[self.dim]


def channel_members(model: GPT2LMHeadModel) -> list[Member]:
    """The tensors that have weights of residual channels."""
    body = model.transformer
    across = [body.wte.weight, body.wpe.weight]
    along = [body.ln_f.weight, body.ln_f.bias]
    for block in body.h:
        along += [block.ln_1.weight, block.ln_1.bias, block.ln_2.weight, block.ln_2.bias]
        along += [block.attn.c_attn.weight, block.mlp.c_fc.weight]
        across += [block.attn.c_proj.weight, block.mlp.c_proj.weight]
        along += [block.attn.c_proj.bias, block.mlp.c_proj.bias]
    return [_member(tensor, 1) for tensor in across] + [_member(tensor, 0) for tensor in along]


def head_members(block: nn.Module, heads: int) -> list[Member]:
    """The tensors that have weights of the heads of one layer."""
    attention = block.attn
    width = attention.c_proj.weight.shape[0]
    each = width // heads
    return [
        Member(attention.c_attn.weight, (width, 3, heads, each), 2),
        Member(attention.c_attn.bias, (3, heads, each), 1),
        Member(attention.c_proj.weight, (heads, each, width), 0),
    ]


def neuron_members(block: nn.Module) -> list[Member]:
    """The tensors that have weights of the feed-forward neurons of one layer."""
    mlp = block.mlp
    return [_member(mlp.c_fc.weight, 1), _member(mlp.c_fc.bias, 0), _member(mlp.c_proj.weight, 0)]


def _member(tensor: Tensor, dim: int) -> Member:
    return Member(tensor, tuple(tensor.shape), dim)


def group_norms(members: Sequence[Member]) -> Tensor:
    """[groups]: root mean square of each group's weights, which is its norm divided by the square root of its size."""
    size = sum(member.width for member in members)
    return (torch.stack([member.squares() for member in members]).sum(0) / size).sqrt()


# ------------------------------------------------------------------------------------------- structures without effect


def live_selection(model: GPT2LMHeadModel) -> Selection:
    """The structures that have an effect on the model's output."""
    blocks = list(model.transformer.h)
    heads = [_nonzero(_live_heads(block, model.config.n_head)) for block in blocks]
    neurons = [_nonzero(_live_neurons(block)) for block in blocks]
    layers = [
        number
        for number, block in enumerate(blocks)
        if len(heads[number]) or len(neurons[number]) or block.attn.c_proj.bias.any() or block.mlp.c_proj.bias.any()
    ]
    channels = channel_map(_nonzero(_live_channels(model)), model.config.n_embd)
    return Selection(layers, channels, [heads[n] for n in layers], [neurons[n] for n in layers])


def _live_heads(block: nn.Module, heads: int) -> Tensor:
    """[heads]: False for a head whose values, or whose rows of the output projection, are zero: it adds nothing."""
    weight, bias, output = head_members(block, heads)
    values = weight.tensor.view(weight.view)[:, 2].abs().amax((0, 2)) + bias.tensor.view(bias.view)[2].abs().amax(1)
    return (values > 0) & (output.squares() > 0)


def _live_neurons(block: nn.Module) -> Tensor:
    """[neurons]: False for a neuron whose input weights and bias (gelu(0) = 0), or whose output weights, are zero."""
    into, bias, out = neuron_members(block)
    return ((into.squares() + bias.squares()) > 0) & (out.squares() > 0)


def _live_channels(model: GPT2LMHeadModel) -> Tensor:
    """[channels]: False for a channel that is neither written nor read."""
    return group_norms(channel_members(model)) > 0


def _nonzero(mask: Tensor) -> Tensor:
    return mask.nonzero().flatten()


# ------------------------------------------------------------------------------------------------------------- removal


def extract_model(
    model: GPT2LMHeadModel, selection: Selection, ratios: Mapping[str, float] | None = None
) -> GPT2LMHeadModel:
    """A new stock GPT-2 with the selected structures only; the model itself does not change.

    A LayerNorm divides by the root mean square over all channels. That over the remaining ones is another, which scale
    and epsilon of the new LayerNorms compensate.

    Args:
        model: The whole model.
        selection: What remains.
        ratios: For each LayerNorm by name, the root mean square over the remaining channels as a share of that over
            all, from `norm_ratios`. None: sqrt(all / remaining), which is exact if only channels of zeros are removed
            and the mean of the others is zero.

    Raises:
        ValueError: layers have different numbers of heads or neurons, or channels and heads do not match.
    """
    counts = {(len(heads), len(neurons)) for heads, neurons in zip(selection.heads, selection.neurons, strict=True)}
    if len(counts) != 1:
        raise ValueError(f"layers have different (heads, neurons): {sorted(counts)}; allowed: the same in each")
    ((heads, neurons),) = counts
    each = model.config.n_embd // model.config.n_head
    width, channels = selection.channels.shape
    if channels != heads * each:
        raise ValueError(f"{channels} channels for {heads} heads of {each}; allowed: {heads * each}")
    scales = ratios or dict.fromkeys(norm_modules(model), math.sqrt(width / channels))
    config = copy.deepcopy(model.config)
    config.n_embd, config.n_head, config.n_inner, config.n_layer = channels, heads, neurons, len(selection.layers)
    mean_square = sum(scale**2 for scale in scales.values()) / len(scales)
    config.layer_norm_epsilon = model.config.layer_norm_epsilon * mean_square
    small = GPT2LMHeadModel(config)
    small.generation_config = copy.deepcopy(model.generation_config)
    small.load_state_dict(dict(_select_tensors(model, selection, scales)), strict=True)
    return small.eval()


def _select_tensors(
    model: GPT2LMHeadModel, selection: Selection, scales: Mapping[str, float]
) -> Iterator[tuple[str, Tensor]]:
    state = {name.removeprefix("transformer."): tensor.detach() for name, tensor in model.state_dict().items()}
    channels = selection.channels
    yield "lm_head.weight", state["lm_head.weight"] @ channels
    for name in ("wte.weight", "wpe.weight"):
        yield f"transformer.{name}", state[name] @ channels
    yield from _norm(state, "ln_f", "ln_f", channels, scales["ln_f"])
    each = model.config.n_embd // model.config.n_head
    for number, layer in enumerate(selection.layers):
        old, new = f"h.{layer}", f"h.{number}"
        for norm in ("ln_1", "ln_2"):
            yield from _norm(state, f"{old}.{norm}", f"{new}.{norm}", channels, scales[f"{old}.{norm}"])
        outputs = (selection.heads[number][:, None] * each + torch.arange(each)).flatten()
        inputs = torch.cat([outputs + part * model.config.n_embd for part in range(3)])
        for name, columns in (("attn.c_attn", inputs), ("mlp.c_fc", selection.neurons[number])):
            yield f"transformer.{new}.{name}.weight", channels.T @ state[f"{old}.{name}.weight"][:, columns]
            yield f"transformer.{new}.{name}.bias", state[f"{old}.{name}.bias"][columns].clone()
        for name, rows in (("attn.c_proj", outputs), ("mlp.c_proj", selection.neurons[number])):
            yield f"transformer.{new}.{name}.weight", state[f"{old}.{name}.weight"][rows] @ channels
            yield f"transformer.{new}.{name}.bias", state[f"{old}.{name}.bias"] @ channels


def _norm(
    state: Mapping[str, Tensor], old: str, new: str, channels: Tensor, scale: float
) -> Iterator[tuple[str, Tensor]]:
    yield f"transformer.{new}.weight", state[f"{old}.weight"] @ channels.square() * scale
    yield f"transformer.{new}.bias", state[f"{old}.bias"] @ channels
