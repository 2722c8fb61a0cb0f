"""Dynamic int8 of all matrices of an exported graph, including embeddings and head.

Weights are rounded to int8 with one scale per output channel (or per matrix). The token table, which is the embedding
and a tied head, is stored once, as int8 rows with one scale per token. Activations are rounded at run time with one
scale per *token*, unlike ONNX's `DynamicQuantizeLinear`, which has one per tensor. So a token does not depend on the
others, neither batch nor padding changes a completion, and an outlier does not reduce the precision of all tokens
(token-wise quantization: ZeroQuant, arXiv:2206.01861).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from slimline.tasks.export.onnx_export import FLOAT_MATMULS, GRAPH, Arithmetic, Gpt2Graph, Weights, write_export
from slimline.tasks.export.onnx_graph import CONTRIB
from slimline.tasks.models.checkpoint import CheckpointError, read_gpt2_config
from slimline.tasks.runtime.host import usable_weight_bits

INT8_MATMULS = ("MatMulIntegerToFloat", "QGemm")
_TINY = np.float32(1e-30)  # the smallest scale, so that a channel of zeros can be divided by it


def quantize_onnx(onnx_dir: Path, target: Path, per_channel: bool, weight_bits: int | None = None) -> dict[str, Any]:
    """Write the export `onnx_dir` with all matrices in int8 to `target`.

    Args:
        onnx_dir: An export of export-onnx.
        target: Where the new export is written.
        per_channel: Whether projections have one scale per output channel; tables always have one per row.
        weight_bits: Bits of a weight; None: as many as this processor adds without saturation.

    Returns:
        Notes for provenance: matmuls and int8_matmuls, counted in the graph that onnxruntime executes; per_channel,
        weight_bits.

    Raises:
        CheckpointError: `onnx_dir` is not an export of export-onnx.
    """
    weight_bits = weight_bits or usable_weight_bits()
    arithmetic = DynamicInt8(exported_weights(onnx_dir), weight_bits, per_channel)
    write_export(Gpt2Graph(read_gpt2_config(onnx_dir), arithmetic).build(), onnx_dir, target)
    return {**count_matmuls(target / GRAPH), "per_channel": per_channel, "weight_bits": weight_bits}


def exported_weights(onnx_dir: Path) -> Weights:
    """The fp32 weights of an export.

    Raises:
        CheckpointError: the directory has no export of export-onnx, or, when it is read, lacks a weight.
    """
    read_gpt2_config(onnx_dir)
    path = onnx_dir / GRAPH
    try:
        model = onnx.load_model(path)
    except FileNotFoundError:
        message = f"{path.parent}: {path.name} is missing; int8 quantization needs an export of export-onnx"
        raise CheckpointError(message) from None
    except Exception as error:  # protobuf's DecodeError is not importable from one place across its backends
        raise CheckpointError(f"{path}: not an ONNX file ({error})") from error
    if not any(node.op_type in FLOAT_MATMULS for node in model.graph.node):
        raise CheckpointError(f"{path}: is quantized; allowed: an fp32 export of export-onnx")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    def read(name: str) -> NDArray[np.float32]:
        if name not in tensors:
            raise CheckpointError(f"{path}: tensor {name} is missing")
        return np.asarray(numpy_helper.to_array(tensors[name]))

    return read


def count_matmuls(graph: Path) -> dict[str, int]:
    """Matrix products that onnxruntime executes after its optimizations of `graph`: matmuls, int8_matmuls."""
    with tempfile.TemporaryDirectory() as directory:
        executed = Path(directory) / "executed.onnx"
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(executed)
        options.log_severity_level = 3  # otherwise it warns that the file is for this machine only
        ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        kinds = [node.op_type for node in onnx.load_model(executed, load_external_data=False).graph.node]
    int8 = sum(map(kinds.count, INT8_MATMULS))
    return {"matmuls": int8 + sum(map(kinds.count, (*FLOAT_MATMULS, "Gemm"))), "int8_matmuls": int8}


class QuantizedMatrix(NamedTuple):
    """The names, in a graph, of a matrix in int8 and of its scales, and the matrix's shape."""

    matrix: str
    scales: str
    shape: tuple[int, int]


class Int8Arithmetic(Arithmetic):
    """An arithmetic with tables and weights in int8; subclasses decide how activations are rounded."""

    def __init__(self, weights: Weights, weight_bits: int, per_channel: bool) -> None:
        super().__init__(weights)
        self._limit = 2 ** (weight_bits - 1) - 1
        self._axis = 0 if per_channel else None
        self._quantized: dict[str, QuantizedMatrix] = {}

    def times_smaller(self) -> float:
        """Bytes of the quantized matrices in fp32, divided by those of their integers and scales."""
        sizes = [
            (np.prod(each.shape), np.prod(self.graph.constants[each.scales].dims)) for each in self._quantized.values()
        ]
        return float(sum(4 * weights for weights, _ in sizes) / sum(weights + 4 * scales for weights, scales in sizes))

    def rows(self, table: str, ids: str) -> str:
        """See `Arithmetic.rows`; int8 rows are multiplied by their scales."""
        graph = self.graph
        quantized = self._table(table)
        row = graph.node("Cast", [graph.node("Gather", [quantized.matrix, ids])], to=TensorProto.FLOAT)
        scale = graph.node("Unsqueeze", [graph.node("Gather", [quantized.scales, ids]), self._last_axis()])
        return graph.node("Mul", [row, scale])

    def _table(self, name: str) -> QuantizedMatrix:
        """The table's int8 rows, with scales [rows]."""
        return self._quantize(name, axis=1)

    def _matrix(self, projection: str) -> QuantizedMatrix:
        """The projection's int8 weight [inputs, outputs], with scales ([outputs], or one)."""
        return self._quantize(f"{projection}.weight", self._axis)

    def _quantize(self, name: str, axis: int | None) -> QuantizedMatrix:
        if name not in self._quantized:
            weight = self._weights(name)
            rows, columns = weight.shape
            self._quantized[name] = QuantizedMatrix(*self._constants(name, weight, axis), (rows, columns))
        return self._quantized[name]

    def _constants(self, name: str, weight: NDArray[np.float32], axis: int | None) -> tuple[str, str]:
        """Add a matrix in int8 and its scales to the graph; returns their names."""
        matrix, scales = quantize_symmetric(weight, axis, self._limit)
        return self.graph.constant(f"{name}.int8", matrix), self.graph.constant(f"{name}.scale", scales)

    def _head_product(
        self, table: QuantizedMatrix, rounded: str, scale: str, offset: str, output: str | None = None
    ) -> str:
        """Logits [rows, m, vocabulary] of `rounded` tokens; QGemm needs no transposed table, but matrices."""
        graph = self.graph
        vocabulary, width = table.shape
        flat = graph.node("Reshape", [rounded, graph.constant(f"flat_{width}", np.array([-1, width]))])
        size = graph.constant("vocabulary", np.array([vocabulary]))
        no_offsets = graph.node(
            "ConstantOfShape", [size], value=helper.make_tensor("value", TensorProto.INT8, [1], [0])
        )
        inputs = [flat, scale, offset, table.matrix, table.scales, no_offsets]
        product = graph.node("QGemm", inputs, domain=CONTRIB, transB=1)
        shape = graph.node("Concat", [graph.node("Shape", ["wanted"]), size], axis=0)
        return graph.node("Reshape", [product, shape], output)

    def _last_axis(self) -> str:
        return self.graph.constant("last_axis", np.array([-1]))


class DynamicInt8(Int8Arithmetic):
    """An arithmetic that rounds tokens to ±127 with the scale of their largest number; the zero point is 128.

    A token of zeros has scale zero, so that its products are zero for any rounded numbers.
    """

    def set_token_ids(self, ids: str) -> None:
        """See `Arithmetic.set_token_ids`; `QuantizeLinear` needs an offset for every token."""
        graph = self.graph
        one = graph.constant("one", np.array([1]))
        shape = graph.node("Concat", [graph.node("Shape", [ids]), one], axis=0)
        value = helper.make_tensor("value", TensorProto.UINT8, [1], [128])
        self._offsets = graph.node("ConstantOfShape", [shape], value=value)

    def project_onto(self, name: str, tokens: str, residual: str) -> str:
        """See `Arithmetic.project_onto`."""
        product, scale = self._unscaled_product(name, tokens)
        onto = self.graph.node("GatedAdd", [residual, product, scale], domain=CONTRIB)
        return self.graph.node("Add", [onto, self.weight(f"{name}.bias")])

    def head(self, table: str, tokens: str, output: str) -> None:
        """See `Arithmetic.head`."""
        quantized = self._table(table)
        rounded, scale = self._round(tokens, quantized.shape[1])
        product = self._head_product(quantized, rounded, self._one(), self._zero())
        self.graph.node("Mul", [product, scale], output)

    def _product(self, name: str, tokens: str) -> str:
        return self.graph.node("Mul", list(self._unscaled_product(name, tokens)))

    def _unscaled_product(self, name: str, tokens: str) -> tuple[str, str]:
        """Tokens x weight without the tokens' scales, and these scales [rows, tokens, 1]."""
        quantized = self._matrix(name)
        rounded, scale = self._round(tokens, quantized.shape[0])
        inputs = [rounded, quantized.matrix, self._one(), quantized.scales, self._zero()]
        return self.graph.node("MatMulIntegerToFloat", inputs, domain=CONTRIB), scale

    def _round(self, tokens: str, width: int) -> tuple[str, str]:
        graph = self.graph
        largest = graph.node("ReduceMax", [graph.node("Abs", [tokens]), self._last_axis()])
        scale = graph.node("Mul", [largest, graph.constant("unit", np.float32(1 / 127))])
        inputs = [tokens, scale, self._offsets]
        return graph.node("QuantizeLinear", inputs, axis=-1, block_size=width), scale

    def _one(self) -> str:
        return self.graph.constant("unscaled", np.float32(1))

    def _zero(self) -> str:
        return self.graph.constant("zero", np.uint8(128))


def quantize_symmetric(
    matrix: NDArray[np.float32], axis: int | None, limit: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric quantization: matrix ~ integers * scales.

    Args:
        matrix: Numbers.
        axis: Along which the largest number is taken for a scale; None: one scale for the whole matrix.
        limit: The integer of the largest number; all are within ±`limit`.

    Returns:
        Integers of the matrix's shape, and scales of that shape without `axis`.
    """
    largest = np.abs(matrix).max(axis=axis, keepdims=True)
    scales = np.maximum(largest / np.float32(limit), _TINY, dtype=np.float32)
    return np.rint(matrix / scales).astype(np.int8), np.asarray(scales.squeeze(axis), dtype=np.float32)
