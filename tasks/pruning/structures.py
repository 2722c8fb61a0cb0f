"""The structures of a GPT-2 that can be taken out of it: FFN neurons, attention heads, residual channels, layers.

Weights that only make sense together are one group (the dependency groups of Fang et al. 2023, arXiv:2301.12900): a
channel of the residual stream is a column of the embeddings (and so of the tied head), a row or column of every
projection, and an entry of every LayerNorm; a head is its columns of queries, keys and values and its rows of the
output projection; a neuron its column, its bias and its row.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel


class Kept(NamedTuple):
    """What of a model stays: indices, ascending; `heads` and `neurons` one tensor for each layer of `layers`."""

    layers: list[int]
    channels: Tensor
    heads: list[Tensor]
    neurons: list[Tensor]


class Member(NamedTuple):
    """A tensor with one dimension that runs over the groups of a kind: [groups, width] once viewed so."""

    tensor: Tensor
    view: tuple[int, ...]
    dim: int

    def squares(self) -> Tensor:
        """[groups]: the sum of squares of each group's weights in this tensor."""
        squares = self.tensor.detach().view(self.view).square()
        others = [dim for dim in range(squares.ndim) if dim != self.dim]
        return squares.sum(others) if others else squares

    def scale(self, factors: Tensor) -> None:
        """Multiply each group's weights in place; `factors` is [groups]."""
        shape = [1] * len(self.view)
        shape[self.dim] = -1
        self.tensor.view(self.view).mul_(factors.view(shape))

    @property
    def width(self) -> int:
        """Weights of one group in this tensor."""
        return int(self.tensor.numel()) // self.view[self.dim]


def channel_members(model: GPT2LMHeadModel) -> list[Member]:
    """Everything a residual channel is part of."""
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
    """Everything a head of one layer is part of."""
    attention = block.attn
    width = attention.c_proj.weight.shape[0]
    each = width // heads
    return [
        Member(attention.c_attn.weight, (width, 3, heads, each), 2),
        Member(attention.c_attn.bias, (3, heads, each), 1),
        Member(attention.c_proj.weight, (heads, each, width), 0),
    ]


def neuron_members(block: nn.Module) -> list[Member]:
    """Everything a feed-forward neuron of one layer is part of."""
    mlp = block.mlp
    return [_member(mlp.c_fc.weight, 1), _member(mlp.c_fc.bias, 0), _member(mlp.c_proj.weight, 0)]


def _member(tensor: Tensor, dim: int) -> Member:
    return Member(tensor, tuple(tensor.shape), dim)


def group_norms(members: Sequence[Member]) -> Tensor:
    """[groups]: root mean square of each group's weights, that is its norm over the root of its size."""
    size = sum(member.width for member in members)
    return (torch.stack([member.squares() for member in members]).sum(0) / size).sqrt()


def scale_groups(members: Sequence[Member], factors: Tensor) -> None:
    """Multiply all weights of each group in place; `factors` is [groups]."""
    for member in members:
        member.scale(factors)


# --------------------------------------------------------------------------------------------------------------- dead


def alive(model: GPT2LMHeadModel) -> Kept:
    """What contributes to the model's output: everything whose removal would change it."""
    blocks = list(model.transformer.h)
    heads = [_nonzero(_live_heads(block, model.config.n_head)) for block in blocks]
    neurons = [_nonzero(_live_neurons(block)) for block in blocks]
    layers = [
        number
        for number, block in enumerate(blocks)
        if len(heads[number]) or len(neurons[number]) or block.attn.c_proj.bias.any() or block.mlp.c_proj.bias.any()
    ]
    return Kept(layers, _nonzero(_live_channels(model)), [heads[n] for n in layers], [neurons[n] for n in layers])


def _live_heads(block: nn.Module, heads: int) -> Tensor:
    """A head without values, or whose output nobody takes, adds nothing."""
    weight, bias, output = head_members(block, heads)
    values = weight.tensor.view(weight.view)[:, 2].abs().amax((0, 2)) + bias.tensor.view(bias.view)[2].abs().amax(1)
    return (values > 0) & (output.squares() > 0)


def _live_neurons(block: nn.Module) -> Tensor:
    """A neuron without input is gelu(0) = 0; one without output adds nothing."""
    into, bias, out = neuron_members(block)
    return ((into.squares() + bias.squares()) > 0) & (out.squares() > 0)


def _live_channels(model: GPT2LMHeadModel) -> Tensor:
    """A channel that nothing writes and nothing reads."""
    return group_norms(channel_members(model)) > 0


def _nonzero(mask: Tensor) -> Tensor:
    return mask.nonzero().flatten()


# ------------------------------------------------------------------------------------------------------------- removal


def take(model: GPT2LMHeadModel, kept: Kept) -> GPT2LMHeadModel:
    """A new stock GPT-2 with the kept structures only; the model itself is left as it is.

    A LayerNorm divides by the root mean square over *all* channels, the zero ones included. Over fewer channels that
    root grows by sqrt(all / kept), which the scale and epsilon of the new LayerNorms undo: where what is left of the
    residual stream has mean zero, as the whole stream's then has, removing channels of zeros changes nothing.

    Raises:
        ValueError: layers keep different numbers of heads or neurons, or no stock GPT-2 has that many of them.
    """
    counts = {(len(heads), len(neurons)) for heads, neurons in zip(kept.heads, kept.neurons, strict=True)}
    if len(counts) != 1:
        raise ValueError(f"layers keep different (heads, neurons): {sorted(counts)}; allowed: the same in each")
    ((heads, neurons),) = counts
    each = model.config.n_embd // model.config.n_head
    if len(kept.channels) != heads * each:
        raise ValueError(f"{len(kept.channels)} channels for {heads} heads of {each}; allowed: {heads * each}")
    config = copy.deepcopy(model.config)
    growth = model.config.n_embd / len(kept.channels)
    config.n_embd, config.n_head, config.n_inner, config.n_layer = len(kept.channels), heads, neurons, len(kept.layers)
    config.layer_norm_epsilon = model.config.layer_norm_epsilon * growth
    small = GPT2LMHeadModel(config)
    small.generation_config = copy.deepcopy(model.generation_config)
    small.load_state_dict(dict(_taken(model, kept, math.sqrt(growth))), strict=True)
    return small


def _taken(model: GPT2LMHeadModel, kept: Kept, growth: float) -> Iterator[tuple[str, Tensor]]:
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    channels = kept.channels
    for name in ("transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight"):
        yield name, state[name][:, channels].clone()
    yield from _norm(state, "transformer.ln_f", "transformer.ln_f", channels, growth)
    each = model.config.n_embd // model.config.n_head
    for number, layer in enumerate(kept.layers):
        old, new = f"transformer.h.{layer}", f"transformer.h.{number}"
        for norm in ("ln_1", "ln_2"):
            yield from _norm(state, f"{old}.{norm}", f"{new}.{norm}", channels, growth)
        outputs = (kept.heads[number][:, None] * each + torch.arange(each)).flatten()
        inputs = torch.cat([outputs + part * model.config.n_embd for part in range(3)])
        neurons = kept.neurons[number]
        for name, rows, columns in (
            ("attn.c_attn", channels, inputs),
            ("attn.c_proj", outputs, channels),
            ("mlp.c_fc", channels, neurons),
            ("mlp.c_proj", neurons, channels),
        ):
            yield f"{new}.{name}.weight", state[f"{old}.{name}.weight"][rows][:, columns].clone()
            yield f"{new}.{name}.bias", state[f"{old}.{name}.bias"][columns].clone()


def _norm(
    state: Mapping[str, Tensor], old: str, new: str, channels: Tensor, growth: float
) -> Iterator[tuple[str, Tensor]]:
    for name in ("weight", "bias"):
        scale = growth if name == "weight" else 1.0
        yield f"{new}.{name}", state[f"{old}.{name}"][channels] * scale
