"""The shapes of stock GPT-2s: how many parameters they have, and which smaller ones a model can be cut down to.

Layers, heads and neurons are taken out whole. A stock GPT-2 has as many channels as all its heads together, so a head
goes with its share of the channels, and every layer keeps the same number of heads and neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple


class Shape(NamedTuple):
    """The sizes of a stock GPT-2; `heads` divides `width`."""

    layers: int
    heads: int
    width: int
    inner: int
    """Neurons of one layer's feed-forward part."""
    vocabulary: int
    positions: int


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The shape a GPT-2 `config.json` describes, be it the raw object or what `read_gpt2_config` made of it.

    Raises:
        ValueError: `n_embd` is no multiple of `n_head`.
    """
    heads, width = config["n_head"], config["n_embd"]
    if width % heads:
        raise ValueError(f"n_head is {heads}; allowed: a divisor of n_embd = {width}")
    inner = config.get("n_inner") or 4 * width
    return Shape(config["n_layer"], heads, width, inner, config["vocab_size"], config["n_positions"])


def parameters(shape: Shape, tied: bool = True) -> int:
    """How many numbers the model has; `tied`: the head is the token embedding, which counts once."""
    layers, _, width, inner, vocabulary, positions = shape
    norm = 2 * width
    attention = 4 * width**2 + 4 * width
    feed_forward = 2 * width * inner + inner + width
    embeddings = (vocabulary * (1 if tied else 2) + positions) * width
    return embeddings + layers * (attention + feed_forward + 2 * norm) + norm


def candidates(original: Shape, inner_multiple: int = 32) -> Iterator[Shape]:
    """Every smaller shape, the large ones first: at least one layer, one head and `inner_multiple` neurons remain.

    The neurons are a multiple of `inner_multiple`, or as many as in the original.
    """
    head_width = original.width // original.heads
    sizes = [original.inner, *reversed(range(inner_multiple, original.inner, inner_multiple))]
    for layers in range(original.layers, 0, -1):
        for heads in range(original.heads, 0, -1):
            for inner in sizes:
                shape = original._replace(layers=layers, heads=heads, width=heads * head_width, inner=inner)
                if shape != original:
                    yield shape


def within_parameters(original: Shape, limit: float) -> list[Shape]:
    """For every number of layers and heads the most neurons with which the shape has at most `limit` parameters.

    Feed-forward parts narrower than the model (or than the original's, if that is narrower still) are left out.
    Sorted by parameters, the largest shape first; empty if nothing is small enough.
    """
    return _most_neurons(original, lambda shape: parameters(shape) <= limit)


def within_seconds(original: Shape, limit_s: float, seconds: Callable[[Shape], float]) -> list[Shape]:
    """As `within_parameters`, with at most `limit_s` seconds for one completion, as `seconds` estimates them."""
    return _most_neurons(original, lambda shape: seconds(shape) <= limit_s)


def _most_neurons(original: Shape, is_small: Callable[[Shape], bool]) -> list[Shape]:
    found: dict[tuple[int, int], Shape] = {}
    for shape in candidates(original):
        place = shape.layers, shape.heads
        if place not in found and shape.inner >= min(shape.width, original.inner) and is_small(shape):
            found[place] = shape
    return sorted(found.values(), key=parameters, reverse=True)
