"""Static int8 of all matrices of an exported graph: activations are rounded with ranges from calibration.

The range of a matrix's input would depend on its largest channel, so channels are first made more equal (SmoothQuant,
arXiv:2211.10438): a channel of the input is divided by a number, and the matrix's row multiplied by it. The division
needs no time, because it is applied to the weights before it. This is possible after layer norms and, as attention is
linear in its values, after attention; not after GELU. Then, for each input, the range with the smallest squared error
of rounding and clipping is used. Weights and tables are quantized as in `onnx_int8`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tokenizers import Tokenizer

from slimline.tasks.data.packing import Windows, calibration_windows
from slimline.tasks.export.onnx_export import GRAPH, Arithmetic, Gpt2Graph, Weights, write_export
from slimline.tasks.export.onnx_graph import CONTRIB, save
from slimline.tasks.models.checkpoint import Gpt2Config, read_gpt2_config
from slimline.tasks.quantization.onnx_int8 import Int8Arithmetic, count_matmuls, exported_weights
from slimline.tasks.runtime.host import usable_weight_bits
from slimline.tasks.specs import OnnxStaticInt8

Floats = NDArray[np.float32]
Activations = dict[str, Floats]
"""Inputs of projections and tables by their names: [tokens, width]."""
Extremes = dict[str, Floats]
"""The smallest and the largest number of each channel of these inputs: [2, width]."""

_WINDOW = 512  # tokens
# SmoothQuant's alpha. Mean KL divergence of the bundled model in int8 from fp32, on held-out text: 0.0037 without
# smoothing, 0.0028 with 0.5, 0.0023 with 0.8 and more, as with dynamic int8.
_SMOOTHING = 0.8
_SMALLEST = np.float32(1e-5)  # lower bound of a channel's largest activation and weight, for channels of zeros
_BINS = 2048
_SHARES = np.linspace(0.3, 1.0, 15)  # of the observed extremes, as candidates for the ends of a range
_LEVELS = 255


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
    window = min(_WINDOW, config["n_positions"])
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    field = "onnx-static-int8.calibration_samples"
    windows = calibration_windows(slice_dir, tokenizer, spec.calibration_samples, window, field)
    smoothed = smooth(config, weights, extremes(_observe(config, weights, windows)))
    ranges = best_ranges(_observe(config, smoothed.weights, windows), smoothed.extremes)
    weight_bits = spec.weight_bits or usable_weight_bits()
    graph = Gpt2Graph(config, StaticInt8(smoothed.weights, weight_bits, ranges))
    write_export(graph.build(), source, target)
    return {**count_matmuls(target / GRAPH), "weight_bits": weight_bits, "calibration_tokens": windows.size}


class _Observer(Arithmetic):
    """An arithmetic in fp32 that records the input of each matrix; it computes no logits."""

    def __init__(self, weights: Weights) -> None:
        super().__init__(weights)
        self.inputs: dict[str, str] = {}

    def head(self, table: str, tokens: str, output: str) -> None:
        self.inputs[table] = tokens

    def _product(self, name: str, tokens: str) -> str:
        self.inputs[name] = tokens
        return super()._product(name, tokens)


def _observe(config: Gpt2Config, weights: Weights, windows: Windows) -> Iterator[Activations]:
    """The inputs of all matrices, window by window."""
    arithmetic = _Observer(weights)
    model = Gpt2Graph(config, arithmetic).build()
    del model.graph.output[:]
    for tensor in arithmetic.inputs.values():
        model.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
    with tempfile.TemporaryDirectory() as directory:
        save(model, Path(directory) / GRAPH)
        options = ort.SessionOptions()
        # Spinning threads would slow down the statistics in this thread if there are fewer CPUs than threads.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = ort.InferenceSession(Path(directory) / GRAPH, options, providers=["CPUExecutionProvider"])
        for window in windows:
            tensors = session.run(list(arithmetic.inputs.values()), _feeds(config, window))
            yield {name: tensor[0] for name, tensor in zip(arithmetic.inputs, tensors, strict=True)}


def _feeds(config: Gpt2Config, window: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
    every = np.arange(len(window))[None]
    head_width = config["n_embd"] // config["n_head"]
    empty = np.zeros((1, config["n_head"], len(window), head_width), dtype=np.float32)
    return {
        "input_ids": window[None].astype(np.int64),
        "position_ids": every,
        "wanted": every,
        "seqlens_k": np.array([len(window) - 1], dtype=np.int32),
        "total_sequence_length": np.array(len(window), dtype=np.int32),
        **{f"past_{kind}_{layer}": empty for layer in range(config["n_layer"]) for kind in ("key", "value")},
    }


def extremes(observed: Iterable[Activations]) -> Extremes:
    """The smallest and the largest number in each channel of every matrix's input."""
    found: Extremes = {}
    for activations in observed:
        for name, tensor in activations.items():
            low, high = found.get(name, (np.inf, -np.inf))
            found[name] = np.stack([np.minimum(low, tensor.min(axis=0)), np.maximum(high, tensor.max(axis=0))])
    return found


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
    largest = np.maximum(activations, _SMALLEST) ** _SMOOTHING
    return np.asarray(largest / np.maximum(weights, _SMALLEST) ** (1 - _SMOOTHING), dtype=np.float32)


def best_ranges(observed: Iterable[Activations], found: Extremes) -> dict[str, Range]:
    """For the input of every matrix, the range with the smallest squared error."""
    ends = {name: (min(float(low.min()), 0.0), max(float(high.max()), 0.0)) for name, (low, high) in found.items()}
    counts = {name: np.zeros(_BINS, dtype=np.int64) for name in found}
    for activations in observed:
        for name, tensor in activations.items():
            counts[name] += np.histogram(tensor, _BINS, ends[name])[0]
    return {name: _best_range(counts[name], *ends[name]) for name in found}


def _best_range(counts: NDArray[np.int64], low: float, high: float) -> Range:
    edges = np.linspace(low, high, len(counts) + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    ranges = [_range(low * below, high * above) for below in _SHARES for above in _SHARES]
    return min(ranges, key=lambda each: float(counts @ (each.round(centres) - centres) ** 2))


class Range(NamedTuple):
    """The numbers that 8-bit integers represent: (integer - offset) * scale."""

    scale: float
    offset: int

    def round(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """The numbers after rounding and clipping."""
        integers = np.clip(np.rint(numbers / self.scale) + self.offset, 0, _LEVELS)
        return np.asarray((integers - self.offset) * self.scale)


def _range(low: float, high: float) -> Range:
    """The range from `low` (at most 0) to `high` (at least 0) in which zero is exact."""
    scale = float(np.float32(max(high - low, float(_SMALLEST)) / _LEVELS))
    return Range(scale, round(-low / scale))


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
        self._head_product(table, *self._round(table, tokens), output)

    def _round(self, name: str, tokens: str) -> tuple[str, str, str]:
        """Names of the rounded tokens, of their scale and of their offset."""
        scale = self.graph.constant(f"{name}.in_scale", np.float32(self._ranges[name].scale))
        offset = self.graph.constant(f"{name}.in_offset", np.uint8(self._ranges[name].offset))
        return self.graph.node("QuantizeLinear", [tokens, scale, offset]), scale, offset
