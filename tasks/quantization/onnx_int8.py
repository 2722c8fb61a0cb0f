"""Dynamic int8 of every projection of an exported graph, the tied head included.

Weights are rounded to int8, one scale per output channel (or per matrix). Activations are rounded at run time with one
scale per *token*, unlike ONNX's `DynamicQuantizeLinear`, which takes one per tensor: a token's numbers then do not
depend on its neighbours, so neither batch nor padding changes a completion, and one outlier token does not coarsen all
others (token-wise quantization: ZeroQuant, arXiv:2206.01861).
"""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tasks.engines.checkpoint import CheckpointError, read_gpt2_config
from tasks.engines.graph import CONTRIB, GraphWriter, save

_FLOAT_MATMULS = ("Gemm", "MatMul")
_INT8_MATMUL = "MatMulIntegerToFloat"
_TINY = np.float32(1e-30)  # an all-zero channel or token keeps a scale that can be divided by


def quantize_onnx(onnx_dir: Path, target: Path, per_channel: bool) -> dict[str, Any]:
    """Writes the export `onnx_dir` with every projection in int8 into `target`; the embeddings stay fp32.

    Returns:
        Notes for provenance, counted in the written graph: matmuls, int8_matmuls; and per_channel, weight_bits.

    Raises:
        CheckpointError: `onnx_dir` is no export of export-onnx.
    """
    read_gpt2_config(onnx_dir)
    source = _load(onnx_dir / "model.onnx")
    weight_bits = 8 if has_exact_int8() else 7
    model = _Int8Graph(source, per_channel, weight_bits).build()
    target.mkdir(parents=True, exist_ok=True)
    save(model, target / "model.onnx")
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(onnx_dir / name, target / name)
    return {**_count(model), "per_channel": per_channel, "weight_bits": weight_bits}


def has_exact_int8() -> bool:
    """Whether this CPU adds products of 8-bit numbers without saturation.

    x86 before VNNI sums pairs of u8 x s8 products in 16 bits, which can overflow unless weights keep to 7 bits
    (onnxruntime's "reduce_range"). An x86 whose flags cannot be read is taken for one of those.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_vnni" in flags or "avx_vnni" in flags


def _load(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load_model(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent}: {path.name} is missing; onnx-int8 follows export-onnx") from None
    except Exception as error:  # protobuf's DecodeError is not importable from one place across its backends
        raise CheckpointError(f"{path}: not an ONNX file ({error})") from error
    if not any(node.op_type in _FLOAT_MATMULS for node in model.graph.node):
        raise CheckpointError(f"{path}: has no floating-point projection; is it quantized already?")
    return model


def _count(model: onnx.ModelProto) -> dict[str, int]:
    kinds = [node.op_type for node in model.graph.node]
    int8 = kinds.count(_INT8_MATMUL)
    return {"matmuls": int8 + sum(map(kinds.count, _FLOAT_MATMULS)), "int8_matmuls": int8}


class _Int8Graph:
    def __init__(self, source: onnx.ModelProto, per_channel: bool, weight_bits: int) -> None:
        self._source = source.graph
        self._weights = {tensor.name: tensor for tensor in source.graph.initializer}
        self._axis = 0 if per_channel else None
        self._limit = 2 ** (weight_bits - 1) - 1
        self._graph = GraphWriter(prefix="int8_")

    def build(self) -> onnx.ModelProto:
        for node in self._source.node:
            if node.op_type == "Gemm":
                self._project(node)
            else:
                self._graph.nodes.append(node)
        used = {name for node in self._graph.nodes for name in node.input}
        kept = {name: tensor for name, tensor in self._weights.items() if name in used}
        self._graph.constants = kept | self._graph.constants
        return self._graph.model(self._source.input, self._source.output)

    def _project(self, gemm: onnx.NodeProto) -> None:
        """output = (int8 of the tokens) x (int8 of the weights) x (scales of both) + bias."""
        graph, (tokens, weight, *bias) = self._graph, gemm.input
        largest = graph.node("ReduceMax", [graph.node("Abs", [tokens]), graph.constant("per_token", np.array([-1]))])
        scale = graph.node("Max", [largest, graph.constant("tiny", _TINY)])
        unit = graph.constant("unit", np.float32(1 / 127))
        zero = graph.constant("zero", np.uint8(128))
        rounded = graph.node("QuantizeLinear", [graph.node("Div", [tokens, scale]), unit, zero])
        matrix, scales = self._quantize(weight, transposed=bool(_attribute(gemm, "transB")))
        inputs = [rounded, matrix, unit, scales, zero]
        product = graph.node(_INT8_MATMUL, inputs, domain=CONTRIB)
        output = gemm.output[0]
        scaled = graph.node("Mul", [product, scale], None if bias else output)
        if bias:
            graph.node("Add", [scaled, bias[0]], output)

    def _quantize(self, name: str, transposed: bool) -> tuple[str, str]:
        """Names of the int8 matrix [inputs, outputs] and of its scales ([outputs], or one)."""
        stored = numpy_helper.to_array(self._weights[name])
        matrix, scales = quantize_symmetric(stored.T if transposed else stored, self._axis, self._limit)
        return self._graph.constant(f"{name}.int8", matrix), self._graph.constant(f"{name}.scale", scales)


def quantize_symmetric(
    matrix: NDArray[np.float32], axis: int | None, limit: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """`matrix` as integers within ±`limit` and its scales: matrix ~ integers * scales.

    One scale for the whole matrix (axis None), or one per slice along `axis`; the largest entry maps to `limit`.
    """
    scales = np.maximum(np.abs(matrix).max(axis=axis) / np.float32(limit), _TINY, dtype=np.float32)
    return np.rint(matrix / scales).astype(np.int8), np.asarray(scales, dtype=np.float32)


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), None)
