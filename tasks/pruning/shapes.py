"""Shapes of stock GPT-2s: their number of parameters, and the smaller shapes that a model can be pruned to.

Layers, heads and neurons are removed as a whole. In a stock GPT-2 the heads together have as many channels as the
residual stream, so channels are removed together with heads; every layer has the same number of heads and neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple


class Shape(NamedTuple):
    """The sizes of a stock GPT-2; `heads` divides `width`, `inner` is the neurons of one layer's feed-forward part."""

    layers: int
    heads: int
    width: int
    inner: int
    vocabulary: int
    positions: int


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The shape in a GPT-2's `config.json`, which may be the raw object or the result of `read_gpt2_config`.

    Raises:
        ValueError: `n_embd` is not a multiple of `n_head`.
    """
    heads, width = config["n_head"], config["n_embd"]
    if width % heads:
        raise ValueError(f"n_head is {heads}; allowed: a divisor of n_embd = {width}")
    inner = config.get("n_inner") or 4 * width
    return Shape(config["n_layer"], heads, width, inner, config["vocab_size"], config["n_positions"])


def parameters(shape: Shape, tied: bool = True) -> int:
    """Number of parameters; if `tied`, the head is the token embedding and not counted again."""
    layers, _, width, inner, vocabulary, positions = shape
    norm = 2 * width
    attention = 4 * width**2 + 4 * width
    feed_forward = 2 * width * inner + inner + width
    embeddings = (vocabulary * (1 if tied else 2) + positions) * width
    return embeddings + layers * (attention + feed_forward + 2 * norm) + norm


def smaller_shapes(original: Shape, inner_multiple: int = 32) -> Iterator[Shape]:
    """All smaller shapes with at least one layer, one head and `inner_multiple` neurons, large ones first.

    The number of neurons is a multiple of `inner_multiple`, or that of the original.
    """
    head_width = original.width // original.heads
    sizes = [original.inner, *reversed(range(inner_multiple, original.inner, inner_multiple))]
    for layers in range(original.layers, 0, -1):
        for heads in range(original.heads, 0, -1):
            for inner in sizes:
                shape = original._replace(layers=layers, heads=heads, width=heads * head_width, inner=inner)
                if shape != original:
                    yield shape


def candidates(original: Shape) -> Iterator[Shape]:
    """The smaller shapes without feed-forward parts narrower than the model, or than the original's if that is less.

    Nor are there any of one channel, of which a LayerNorm leaves nothing.
    """
    wide = (shape for shape in smaller_shapes(original) if shape.width > 1)
    return (shape for shape in wide if shape.inner >= min(shape.width, original.inner))


def largest_shapes(original: Shape, is_small: Callable[[Shape], bool]) -> list[Shape]:
    """For each number of layers and heads the candidate with the most neurons that meets the condition `is_small`.

    Returns:
        Shapes by their number of parameters, the largest first; empty if none is small enough.
    """
    found: dict[tuple[int, int], Shape] = {}
    for shape in candidates(original):
        layers_and_heads = shape.layers, shape.heads
        if layers_and_heads not in found and is_small(shape):
            found[layers_and_heads] = shape
    return sorted(found.values(), key=parameters, reverse=True)
