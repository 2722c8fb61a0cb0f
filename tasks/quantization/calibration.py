"""Ranges of activations from calibration: what the matrices of an exported graph get, on text of the training split."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tokenizers import Tokenizer

from slimline.tasks.data.packing import Windows, calibration_windows
from slimline.tasks.export.onnx_export import GRAPH, Arithmetic, Gpt2Graph, Weights
from slimline.tasks.export.onnx_graph import save
from slimline.tasks.models.checkpoint import Gpt2Config

Floats = NDArray[np.float32]
Activations = dict[str, Floats]
"""Inputs of projections and tables by their names: [tokens, width]."""
Extremes = dict[str, Floats]
"""The smallest and the largest number of each channel of these inputs: [2, width]."""

WINDOW = 512  # tokens
SMALLEST = np.float32(1e-5)  # lower bound of a channel's largest activation and weight, for channels of zeros
_BINS = 2048
_SHARES = np.linspace(0.3, 1.0, 15)  # of the observed extremes, as candidates for the ends of a range
_LEVELS = 255


def windows_for(config: Gpt2Config, source: Path, slice_dir: Path, count: int, field: str) -> Windows:
    """Windows to calibrate an export in `source` with, as `calibration_windows`, no longer than its positions."""
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    return calibration_windows(slice_dir, tokenizer, count, min(WINDOW, config["n_positions"]), field)


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


def observe(config: Gpt2Config, weights: Weights, windows: Windows) -> Iterator[Activations]:
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
            tensors = session.run(list(arithmetic.inputs.values()), feeds_of(config, window))
            yield {name: tensor[0] for name, tensor in zip(arithmetic.inputs, tensors, strict=True)}


def feeds_of(config: Gpt2Config, window: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
    """The inputs of an exported graph that reads a window and returns what follows each of its tokens."""
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
    scale = float(np.float32(max(high - low, float(SMALLEST)) / _LEVELS))
    return Range(scale, round(-low / scale))
