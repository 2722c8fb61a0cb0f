"""Packed weights of two or three values in an exported graph, with products in int8 (XTC, arXiv:2206.01859).

The file has 8 or 5 weights in a byte. Nodes of the graph unpack them, which onnxruntime runs once, when it loads it: a
byte is looked up in a table of what it stands for. What it executes is the int8 of `onnx_int8`, activations included.
onnxruntime's `MatMulNBits` would leave the weights packed, in 2 bits each; but on two cores with AVX2 it takes twice as
long as int8 for 200 tokens of a prompt (256 x 768: 1.3 ms in place of 0.6 ms), and gains only where a single token is
multiplied by a matrix that is larger than the caches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from slimline.tasks.export.onnx_export import GRAPH, Gpt2Graph, Weights, write_export
from slimline.tasks.models.checkpoint import CheckpointError, read_gpt2_config
from slimline.tasks.models.low_bit import LowBitMatrix, as_low_bit, codebook, pack
from slimline.tasks.quantization.onnx_int8 import DynamicInt8, count_matmuls, exported_weights
from slimline.tasks.runtime.host import usable_weight_bits
from slimline.tasks.specs import OnnxLowBit


def quantize_onnx_low_bit(onnx_dir: Path, target: Path, spec: OnnxLowBit) -> dict[str, Any]:
    """Write the export `onnx_dir` of a model that `xtc` has trained, with its weights packed, to `target`.

    Tables that have more values are stored in int8.

    Returns:
        Notes for provenance: matmuls and int8_matmuls, counted in the graph that onnxruntime executes; weight_bits, the
        most bits of an integer that is multiplied; packed_bits, how many matrices are stored in 1, 1.6 and 8 bits.

    Raises:
        CheckpointError: `onnx_dir` is not an export of export-onnx, or a projection has more than three values for an
            output.
    """
    config = read_gpt2_config(onnx_dir)
    arithmetic = PackedInt8(exported_weights(onnx_dir), spec.weight_bits or usable_weight_bits())
    graph = Gpt2Graph(config, arithmetic).build()
    for name, found in arithmetic.packed.items():
        if found is None and name.startswith("h."):
            raise CheckpointError(
                f"{onnx_dir}: {name} has more than three values for an output; allowed for onnx-low-bit: the export of "
                "a model that xtc has trained"
            )
    write_export(graph, onnx_dir, target)
    return {**count_matmuls(target / GRAPH), **arithmetic.notes()}


class PackedInt8(DynamicInt8):
    """Dynamic int8 whose matrices are packed in the graph's file, where they have only two or three values.

    Attributes:
        packed: The matrices by name; None for what is stored in int8.
    """

    def __init__(self, weights: Weights, weight_bits: int) -> None:
        super().__init__(weights, weight_bits, per_channel=True)
        self._weight_bits = weight_bits
        self.packed: dict[str, LowBitMatrix | None] = {}

    def notes(self) -> dict[str, Any]:
        """Notes for provenance."""
        bits = [8 if found is None else found.bits for found in self.packed.values()]
        stored = {label: bits.count(each) for each, label in ((1, "1"), (2, "1.6"), (8, "8")) if each in bits}
        return {"weight_bits": self._weight_bits if 8 in bits else max(bits), "packed_bits": stored}

    def _constants(self, name: str, weight: NDArray[np.float32], axis: int | None) -> tuple[str, str]:
        found = self.packed[name] = as_low_bit(weight, axis or 0)
        if found is None:
            return super()._constants(name, weight, axis)
        scales = self.graph.constant(f"{name}.scale", found.scales.squeeze(axis))
        return self._unpacked(name, found), scales

    def _unpacked(self, name: str, found: LowBitMatrix) -> str:
        """Nodes that unpack a matrix; all their inputs are constants, so that onnxruntime runs them once."""
        graph, shape = self.graph, found.integers.shape
        packed = graph.constant(f"{name}.packed", pack(found.integers.reshape(-1), found.bits))
        table = graph.constant(f"codebook_{found.bits}", codebook(found.bits))
        index = graph.node("Cast", [packed], to=TensorProto.INT32)
        integers = graph.node("Reshape", [graph.node("Gather", [table, index]), self._last_axis()])
        ends = [graph.constant(f"{name}.{end}", np.array([at])) for end, at in (("begin", 0), ("end", np.prod(shape)))]
        whole = graph.node("Slice", [integers, *ends])
        return graph.node("Reshape", [whole, graph.constant(f"{name}.shape", np.array(shape))])
