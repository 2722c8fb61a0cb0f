"""How much a model suffers when a single tensor of activations is rounded to 8 bits, and everything else is not.

This is the analysis by which mixed-precision quantization chooses (Bondarenko et al., arXiv:2109.12948, section 4.1 and
table 2: activations are rounded one by one).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from slimline.tasks.data.packing import Windows
from slimline.tasks.export.onnx_export import GRAPH, Arithmetic, Gpt2Graph, Weights
from slimline.tasks.export.onnx_graph import save
from slimline.tasks.models.checkpoint import Gpt2Config
from slimline.tasks.quantization.calibration import Range, feeds_of
from slimline.tasks.runtime.progress import track

_MOST_WINDOWS = 8
_EVERY = 4  # of a window's tokens one in so many is predicted: the head is a large part of the work


class Sensitivity(NamedTuple):
    """What rounding the input of one matrix product costs.

    Attributes:
        tensor: The projection or table whose input it is, such as "h.0.mlp.c_proj".
        divergence: Mean KL divergence of the predictions from those of the model in fp32, in nats per token.
    """

    tensor: str
    divergence: float


def sensitivities(
    config: Gpt2Config, weights: Weights, ranges: Mapping[str, Range], windows: Windows
) -> list[Sensitivity]:
    """Of every matrix product's input, the most sensitive first.

    Args:
        config: The model's configuration.
        weights: Its weights in fp32.
        ranges: What 8 bits stand for, of each input.
        windows: Text to predict, at least one window; the first eight are used.
    """
    arithmetic = _Switched(weights, ranges)
    model = Gpt2Graph(config, arithmetic).build()
    del model.graph.output[1:]
    for switch in arithmetic.switches.values():
        model.graph.input.append(helper.make_tensor_value_info(switch, TensorProto.BOOL, []))
    with tempfile.TemporaryDirectory() as directory:
        save(model, Path(directory) / GRAPH)
        session = ort.InferenceSession(Path(directory) / GRAPH, providers=["CPUExecutionProvider"])
        run = _Runs(config, session, arithmetic.switches)
        chosen = windows[:_MOST_WINDOWS]
        costs = [run.divergences(window) for window in track(chosen, "measuring sensitivity", len(chosen))]
    found = [Sensitivity(name, float(np.mean([each[name] for each in costs]))) for name in arithmetic.switches]
    return sorted(found, key=lambda each: -each.divergence)


class _Switched(Arithmetic):
    """An arithmetic in fp32 in which the input of each matrix can be rounded, by a Boolean input of the graph."""

    def __init__(self, weights: Weights, ranges: Mapping[str, Range]) -> None:
        super().__init__(weights)
        self._ranges = ranges
        self.switches: dict[str, str] = {}

    def head(self, table: str, tokens: str, output: str) -> None:
        super().head(table, self._switched(table, tokens), output)

    def _product(self, name: str, tokens: str) -> str:
        return super()._product(name, self._switched(name, tokens))

    def _switched(self, name: str, tokens: str) -> str:
        graph, (scale, offset) = self.graph, self._ranges[name]
        steps = [
            graph.constant(f"{name}.in_scale", np.float32(scale)),
            graph.constant(f"{name}.in_offset", np.uint8(offset)),
        ]
        rounded = graph.node("DequantizeLinear", [graph.node("QuantizeLinear", [tokens, *steps]), *steps])
        self.switches[name] = f"round_{name}"
        return graph.node("Where", [self.switches[name], rounded, tokens])


class _Runs(NamedTuple):
    """Runs of the switched graph."""

    config: Gpt2Config
    session: ort.InferenceSession
    switches: Mapping[str, str]

    def divergences(self, window: NDArray[np.int32]) -> dict[str, float]:
        """For each input, the KL divergence on a window when only that input is rounded."""
        exact = self._log_probabilities(window, None)
        return {
            name: float((np.exp(exact) * (exact - self._log_probabilities(window, name))).sum(-1).mean())
            for name in self.switches
        }

    def _log_probabilities(self, window: NDArray[np.int32], rounded: str | None) -> NDArray[np.float64]:
        """Of the tokens after some of a window's, [tokens, vocabulary]."""
        feeds = feeds_of(self.config, window)
        feeds["wanted"] = feeds["wanted"][:, _EVERY - 1 :: _EVERY]
        flags = {switch: np.array(name == rounded) for name, switch in self.switches.items()}
        (logits,) = self.session.run(["logits"], feeds | flags)
        shifted = logits[0].astype(np.float64)
        shifted -= shifted.max(-1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
