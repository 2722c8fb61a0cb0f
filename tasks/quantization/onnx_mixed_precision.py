"""Mixed-precision post-training quantization of an exported graph (Bondarenko et al., arXiv:2109.12948, section 4.1).

Weights have 8 bits, and activations 8 with ranges from calibration, but the few that lose most by it have 16. A
processor has no product of 16-bit by 8-bit integers that is faster than floating point, so such a tensor is two of 8
bits: x ~ s * high + s / 256 * low, where `low` is what `high` leaves. Both are multiplied by the same int8 weights, and
the products are added.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from slimline.tasks.export.onnx_export import GRAPH, Gpt2Graph, Weights, write_export
from slimline.tasks.export.onnx_graph import CONTRIB
from slimline.tasks.models.checkpoint import read_gpt2_config
from slimline.tasks.quantization.calibration import (
    SMALLEST,
    Extremes,
    Range,
    best_ranges,
    extremes,
    observe,
    windows_for,
)
from slimline.tasks.quantization.onnx_int8 import count_matmuls, exported_weights
from slimline.tasks.quantization.onnx_static_int8 import StaticInt8
from slimline.tasks.quantization.sensitivity import sensitivities
from slimline.tasks.runtime.host import usable_weight_bits
from slimline.tasks.specs import MpPtq

_HIGH, _LOW = 127, 256  # steps of the largest number; steps of the low byte in one of the high byte


def quantize_mixed_precision(source: Path, target: Path, spec: MpPtq, slice_dir: Path) -> dict[str, Any]:
    """Write the export `source` in int8, with its most sensitive activations in 16 bits, to `target`.

    Returns:
        Notes for provenance: matmuls and int8_matmuls, counted in the graph that onnxruntime executes (a tensor of 16
        bits has two); weight_bits, calibration_tokens, times_smaller (the quantized matrices), and sensitivity, a
        list of tensor, divergence in nats per token when only that one has 8 bits, and the bits that it got.

    Raises:
        CheckpointError: `source` is not an export of export-onnx.
        ValueError: the training split is too small to calibrate with.
    """
    config, weights = read_gpt2_config(source), exported_weights(source)
    windows = windows_for(config, source, slice_dir, spec.calibration_samples, "mp-ptq.calibration_samples")
    found = extremes(observe(config, weights, windows))
    ranges = best_ranges(observe(config, weights, windows), found)
    ranked = sensitivities(config, weights, ranges, windows)
    wide = {each.tensor for each in ranked[: math.ceil(spec.sensitive_share * len(ranked))]}
    weight_bits = spec.weight_bits or usable_weight_bits()
    arithmetic = MixedInt8(weights, weight_bits, ranges, _largest(found, wide))
    write_export(Gpt2Graph(config, arithmetic).build(), source, target)
    return {
        **count_matmuls(target / GRAPH),
        "weight_bits": weight_bits,
        "calibration_tokens": windows.size,
        "times_smaller": arithmetic.times_smaller(),
        "sensitivity": [[each.tensor, each.divergence, 16 if each.tensor in wide else 8] for each in ranked],
    }


def _largest(found: Extremes, names: Collection[str]) -> dict[str, float]:
    return {name: max(float(np.abs(found[name]).max()), float(SMALLEST)) for name in names}


class MixedInt8(StaticInt8):
    """An arithmetic that rounds the input of each matrix to 8 bits with a constant range, and of some to 16 bits."""

    def __init__(
        self, weights: Weights, weight_bits: int, ranges: Mapping[str, Range], wide: Mapping[str, float]
    ) -> None:
        """Take ranges of 8 bits for all inputs, and the largest number of each that has 16 bits."""
        super().__init__(weights, weight_bits, ranges)
        self._wide = wide

    def project(self, name: str, tokens: str) -> str:
        """See `Arithmetic.project`."""
        if name not in self._wide:
            return super().project(name, tokens)
        quantized = self._matrix(name)
        products = [
            self.graph.node(
                "MatMulIntegerToFloat",
                [rounded, quantized.matrix, scale, quantized.scales, offset, *bias],
                domain=CONTRIB,
            )
            for (rounded, scale, offset), bias in zip(
                self._bytes(name, tokens), (["", self.weight(f"{name}.bias")], []), strict=True
            )
        ]
        return self.graph.node("Add", products)

    def head(self, table: str, tokens: str, output: str) -> None:
        """See `Arithmetic.head`."""
        if table not in self._wide:
            super().head(table, tokens, output)
            return
        products = [self._head_product(self._table(table), *each) for each in self._bytes(table, tokens)]
        self.graph.node("Add", products, output)

    def _bytes(self, name: str, tokens: str) -> list[tuple[str, str, str]]:
        """Of the high and the low byte of tokens the names of the integers, of their scale and of their offset."""
        graph, step = self.graph, self._wide[name] / _HIGH
        offset = graph.constant("zero_of_bytes", np.uint8(128))
        scales = [
            graph.constant(f"{name}.in_{kind}", np.float32(each))
            for kind, each in (("high", step), ("low", step / _LOW))
        ]
        high = graph.node("QuantizeLinear", [tokens, scales[0], offset])
        rest = graph.node("Sub", [tokens, graph.node("DequantizeLinear", [high, scales[0], offset])])
        low = graph.node("QuantizeLinear", [rest, scales[1], offset])
        return [(high, scales[0], offset), (low, scales[1], offset)]
