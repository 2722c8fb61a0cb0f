"""Per-embedding-group quantization of an exported graph (Bondarenko et al., arXiv:2109.12948, section 4.2).

A few channels of a transformer's activations are much larger than the others, and a range for all of them leaves the
others few steps. So each tensor is cut along its channels into K groups, each with a range of its own, and its matrix
into K blocks of rows: the product is the sum of K int8 products. Before that, channels are sorted by their range, so
that large ones are together (the paper's range-based permutation). The order is folded into the weights, at no cost:

- channels of the residual stream have one order for the whole model, in tables, norms and projections;
- the heads of a layer, and the values within a head, in c_attn and c_proj, which keep each head's channels together;
- neurons in c_fc and c_proj.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slimline.tasks.export.onnx_export import GRAPH, Gpt2Graph, Weights, write_export
from slimline.tasks.export.onnx_graph import CONTRIB
from slimline.tasks.models.checkpoint import Gpt2Config, read_gpt2_config
from slimline.tasks.quantization.calibration import (
    Activations,
    Extremes,
    Range,
    best_ranges,
    extremes,
    observe,
    windows_for,
)
from slimline.tasks.quantization.onnx_int8 import Int8Arithmetic, QuantizedMatrix, count_matmuls, exported_weights
from slimline.tasks.runtime.host import usable_weight_bits
from slimline.tasks.specs import PegPtq

Order = NDArray[np.int64]

_MOST_GROUPS = 64  # as PegPtq allows


def quantize_groups(source: Path, target: Path, spec: PegPtq, slice_dir: Path) -> dict[str, Any]:
    """Write the export `source` in int8, with a range for each group of channels, to `target`.

    Returns:
        Notes for provenance: matmuls and int8_matmuls, counted in the graph that onnxruntime executes (one a group);
        weight_bits, calibration_tokens, groups, and times_smaller (the quantized matrices).

    Raises:
        CheckpointError: `source` is not an export of export-onnx.
        ValueError: the groups do not divide the model's widths, or the training split is too small to calibrate with.
    """
    config, weights = read_gpt2_config(source), exported_weights(source)
    _refuse_groups(spec.groups, config)
    windows = windows_for(config, source, slice_dir, spec.calibration_samples, "peg-ptq.calibration_samples")
    sorted_weights = sort_channels(config, weights, extremes(observe(config, weights, windows)))
    ranges = group_ranges(lambda: observe(config, sorted_weights, windows), spec.groups)
    weight_bits = spec.weight_bits or usable_weight_bits()
    arithmetic = GroupInt8(sorted_weights, weight_bits, ranges)
    write_export(Gpt2Graph(config, arithmetic).build(), source, target)
    return {
        **count_matmuls(target / GRAPH),
        "weight_bits": weight_bits,
        "calibration_tokens": windows.size,
        "groups": spec.groups,
        "times_smaller": arithmetic.times_smaller(),
    }


def _refuse_groups(groups: int, config: Gpt2Config) -> None:
    widths = {"n_embd": config["n_embd"], "n_inner": config["n_inner"]}
    for field, width in widths.items():
        if width % groups:
            allowed = [str(each) for each in range(1, _MOST_GROUPS + 1) if not any(w % each for w in widths.values())]
            raise ValueError(
                f"peg-ptq.groups: {groups} does not divide {field} {width}; allowed here: {', '.join(allowed)}"
            )


# ---------------------------------------------------------------------------------------------------- order of channels


class _Orders(NamedTuple):
    """The new order of channels: of the residual stream, and of each layer's columns of c_attn, values and neurons."""

    residual: Order
    attention: list[Order]
    values: list[Order]
    neurons: list[Order]


def sort_channels(config: Gpt2Config, weights: Weights, found: Extremes) -> Weights:
    """Weights of the same model with its channels sorted by their range.

    Args:
        config: The model's configuration.
        weights: Its weights.
        found: The extremes of the input of each matrix.
    """
    orders = _find_orders(config, found)

    def sorted_weight(name: str) -> NDArray[np.float32]:
        weight = weights(name)
        for axis, order in enumerate(_orders_of(name, orders)):
            weight = weight if order is None else np.take(weight, order, axis)
        return weight

    return sorted_weight


def _find_orders(config: Gpt2Config, found: Extremes) -> _Orders:
    spans = {name: np.ptp(each, axis=0) for name, each in found.items()}
    layers = range(config["n_layer"])
    behind_norms = [
        span for name, span in spans.items() if name.endswith(("c_attn", "c_fc", "wte.weight", "lm_head.weight"))
    ]
    residual = np.argsort(np.mean([span / max(span.max(), 1e-30) for span in behind_norms], axis=0), kind="stable")
    heads = [_sort_heads(spans[f"h.{layer}.attn.c_proj"].reshape(config["n_head"], -1)) for layer in layers]
    neurons = [np.argsort(spans[f"h.{layer}.mlp.c_proj"], kind="stable") for layer in layers]
    return _Orders(residual, [each for each, _ in heads], [each for _, each in heads], neurons)


def _sort_heads(spans: NDArray[np.float32]) -> tuple[Order, Order]:
    """The order of c_attn's columns and of the values, from the ranges of the values [heads, head width]."""
    heads = np.argsort(spans.max(axis=1), kind="stable")
    columns = np.arange(spans.size).reshape(spans.shape)
    whole = columns[heads].reshape(-1)  # queries and keys of a head stay in the order that they share
    inside = np.argsort(spans[heads], axis=1, kind="stable")
    values = np.take_along_axis(columns[heads], inside, axis=1).reshape(-1)
    return np.concatenate([whole, whole + spans.size, values + 2 * spans.size]), values


def _orders_of(name: str, orders: _Orders) -> tuple[Order | None, ...]:
    """The orders of a tensor's axes; None where an axis keeps its order."""
    residual = orders.residual
    if not name.startswith("h."):
        return (residual,) if name.startswith("ln_f") else (None, residual)
    _, layer, *parts = name.split(".")
    inner = {
        "attn.c_attn": (residual, orders.attention[int(layer)]),
        "attn.c_proj": (orders.values[int(layer)], residual),
        "mlp.c_fc": (residual, orders.neurons[int(layer)]),
        "mlp.c_proj": (orders.neurons[int(layer)], residual),
    }.get(".".join(parts[:-1]), (residual, residual))
    is_matrix = parts[-1] == "weight" and not parts[0].startswith("ln")
    return inner if is_matrix else inner[1:]


# --------------------------------------------------------------------------------------------------------------- ranges


def group_ranges(observed: Callable[[], Iterable[Activations]], groups: int) -> dict[str, list[Range]]:
    """The best range of each group of channels of every matrix's input.

    Args:
        observed: Gives the inputs, window by window; it is called twice.
        groups: Groups of each.
    """
    found = extremes(_cut(observed(), groups))
    ranges = best_ranges(_cut(observed(), groups), found)
    names = dict.fromkeys(name.rpartition("/")[0] for name in found)
    return {name: [ranges[f"{name}/{group}"] for group in range(groups)] for name in names}


def _cut(observed: Iterable[Activations], groups: int) -> Iterator[Activations]:
    for activations in observed:
        yield {
            f"{name}/{group}": part
            for name, tensor in activations.items()
            for group, part in enumerate(np.split(tensor, groups, axis=1))
        }


class GroupInt8(Int8Arithmetic):
    """An arithmetic that rounds each group of a matrix's input with a constant range, and adds the groups' products."""

    def __init__(self, weights: Weights, weight_bits: int, ranges: Mapping[str, list[Range]]) -> None:
        super().__init__(weights, weight_bits, per_channel=True)
        self._ranges = ranges

    def project(self, name: str, tokens: str) -> str:
        """See `Arithmetic.project`."""
        quantized, bias = self._matrix(name), ["", self.weight(f"{name}.bias")]
        products = [
            self.graph.node(
                "MatMulIntegerToFloat",
                [rounded, block, scale, quantized.scales, offset, *([] if group else bias)],
                domain=CONTRIB,
            )
            for group, (block, (rounded, scale, offset)) in enumerate(
                zip(self._split(quantized.matrix, axis=0), self._round(name, tokens), strict=True)
            )
        ]
        return self.graph.node("Sum", products)

    def project_gelu(self, name: str, tokens: str) -> str:
        """See `Arithmetic.project_gelu`."""
        return self.graph.node("FastGelu", [self.project(name, tokens)], domain=CONTRIB)

    def head(self, table: str, tokens: str, output: str) -> None:
        """See `Arithmetic.head`."""
        quantized = self._table(table)
        vocabulary, width = quantized.shape
        blocks = self._split(quantized.matrix, axis=1)
        products = [
            self._head_product(QuantizedMatrix(block, quantized.scales, (vocabulary, width // len(blocks))), *rounded)
            for block, rounded in zip(blocks, self._round(table, tokens), strict=True)
        ]
        self.graph.node("Sum", products, output)

    def _round(self, name: str, tokens: str) -> list[tuple[str, str, str]]:
        """Of each group of the tokens the names of the integers, of their scale and of their offset."""
        graph, rounded = self.graph, []
        for group, (part, each) in enumerate(zip(self._split(tokens, axis=-1), self._ranges[name], strict=True)):
            scale = graph.constant(f"{name}.in_scale_{group}", np.float32(each.scale))
            offset = graph.constant(f"{name}.in_offset_{group}", np.uint8(each.offset))
            rounded.append((graph.node("QuantizeLinear", [part, scale, offset]), scale, offset))
        return rounded

    def _split(self, tensor: str, axis: int) -> list[str]:
        """The names of a tensor's parts, one a group; a constant is cut once, when onnxruntime loads the graph."""
        count = len(next(iter(self._ranges.values())))
        names = [f"{tensor}_{axis}_{group}" for group in range(count)]
        return self.graph.node_with_outputs("Split", [tensor], names, axis=axis, num_outputs=count)
