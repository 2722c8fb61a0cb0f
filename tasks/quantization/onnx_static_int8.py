"""Static int8 of all matrices of an exported graph: activations are rounded with ranges from calibration.

The range of a matrix's input would depend on its largest channel, so channels are first made more equal (SmoothQuant,
arXiv:2211.10438): a channel of the input is divided by a number, and the matrix's row multiplied by it. The division
needs no time, because it is applied to the weights before it. This is possible after layer norms and, as attention is
linear in its values, after attention; not after GELU. Then, for each input, the range with the smallest squared error
of rounding and clipping is used. Weights and tables are quantized as in `onnx_int8`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from slimline.tasks.export.onnx_export import GRAPH, Gpt2Graph, Weights, write_export
from slimline.tasks.export.onnx_graph import CONTRIB
from slimline.tasks.models.checkpoint import Gpt2Config, read_gpt2_config
from slimline.tasks.quantization.calibration import (
    SMALLEST,
    Extremes,
    Floats,
    Range,
    best_ranges,
    extremes,
    observe,
    windows_for,
)
from slimline.tasks.quantization.onnx_int8 import Int8Arithmetic, count_matmuls, exported_weights
from slimline.tasks.runtime.host import usable_weight_bits
from slimline.tasks.specs import OnnxStaticInt8

# SmoothQuant's alpha. Mean KL divergence of the bundled model in int8 from fp32, on held-out text: 0.0037 without
# smoothing, 0.0028 with 0.5, 0.0023 with 0.8 and more, as with dynamic int8.
_SMOOTHING = 0.8


def quantize_onnx_static(source: Path, target: Path, spec: OnnxStaticInt8, slice_dir: Path) -> dict[str, Any]:
    """Write the export `source` with all matrices in int8 to `target`, calibrated on the slice's training split.

    Returns:
        Notes for provenance: matmuls and int8_matmuls, counted in the graph that onnxruntime executes; weight_bits,
        calibration_tokens.

    Raises:
        CheckpointError: `source` is not an export of export-onnx.
        ValueError: the training split is too small for one window.
    """
    config, weights = read_gpt2_config(source), exported_weights(source)
    field = "onnx-static-int8.calibration_samples"
    windows = windows_for(config, source, slice_dir, spec.calibration_samples, field)
    smoothed = smooth(config, weights, extremes(observe(config, weights, windows)))
    ranges = best_ranges(observe(config, smoothed.weights, windows), smoothed.extremes)
    weight_bits = spec.weight_bits or usable_weight_bits()
    graph = Gpt2Graph(config, StaticInt8(smoothed.weights, weight_bits, ranges))
    write_export(graph.build(), source, target)
    return {**count_matmuls(target / GRAPH), "weight_bits": weight_bits, "calibration_tokens": windows.size}


class SmoothedModel(NamedTuple):
    """Weights of the same model with more equal channels, and the new extremes of the matrices' inputs."""

    weights: Weights
    extremes: Extremes


def smooth(config: Gpt2Config, weights: Weights, found: Extremes) -> SmoothedModel:
    """SmoothQuant: divide the channels of a matrix's input, and multiply the matrix's rows by the same numbers."""
    changed: dict[str, Floats] = {}
    after = dict(found)

    def current(name: str) -> Floats:
        return changed[name] if name in changed else weights(name)

    def divide(projection: str) -> Floats:
        matrix = current(f"{projection}.weight")
        by = _divisors(np.abs(found[projection]).max(axis=0), np.abs(matrix).max(axis=1))
        changed[f"{projection}.weight"] = matrix * by[:, None]
        after[projection] = found[projection] / by
        return by

    for layer in range(config["n_layer"]):
        name = f"h.{layer}"
        for norm, projection in (("ln_1", "attn.c_attn"), ("ln_2", "mlp.c_fc")):
            by = divide(f"{name}.{projection}")
            for part in ("weight", "bias"):
                changed[f"{name}.{norm}.{part}"] = weights(f"{name}.{norm}.{part}") / by
        # Queries and keys do not change; values are divided.
        values = np.ones(2 * config["n_embd"], dtype=np.float32)
        by = np.concatenate([values, divide(f"{name}.attn.c_proj")])
        for part in ("weight", "bias"):
            changed[f"{name}.attn.c_attn.{part}"] = current(f"{name}.attn.c_attn.{part}") / by
    return SmoothedModel(current, after)


def _divisors(activations: Floats, weights: Floats) -> Floats:
    """Divisors by equation 4 of the paper, from each channel's largest activation and weight."""
    largest = np.maximum(activations, SMALLEST) ** _SMOOTHING
    return np.asarray(largest / np.maximum(weights, SMALLEST) ** (1 - _SMOOTHING), dtype=np.float32)


class StaticInt8(Int8Arithmetic):
    """An arithmetic that rounds the input of each matrix with a constant range."""

    def __init__(self, weights: Weights, weight_bits: int, ranges: Mapping[str, Range]) -> None:
        super().__init__(weights, weight_bits, per_channel=True)
        self._ranges = ranges

    def project(self, name: str, tokens: str) -> str:
        """See `Arithmetic.project`."""
        quantized = self._matrix(name)
        rounded, scale, offset = self._round(name, tokens)
        inputs = [rounded, quantized.matrix, scale, quantized.scales, offset, "", self.weight(f"{name}.bias")]
        return self.graph.node("MatMulIntegerToFloat", inputs, domain=CONTRIB)

    def project_gelu(self, name: str, tokens: str) -> str:
        """See `Arithmetic.project_gelu`."""
        return self.graph.node("FastGelu", [self.project(name, tokens)], domain=CONTRIB)

    def head(self, table: str, tokens: str, output: str) -> None:
        """See `Arithmetic.head`."""
        self._head_product(self._table(table), *self._round(table, tokens), output)

    def _round(self, name: str, tokens: str) -> tuple[str, str, str]:
        """Names of the rounded tokens, of their scale and of their offset."""
        scale = self.graph.constant(f"{name}.in_scale", np.float32(self._ranges[name].scale))
        offset = self.graph.constant(f"{name}.in_offset", np.uint8(self._ranges[name].offset))
        return self.graph.node("QuantizeLinear", [tokens, scale, offset]), scale, offset
