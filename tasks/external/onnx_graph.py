"""ONNX graphs of optimum, of ONNX Runtime GenAI and of onnxruntime's own exporter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from slimline.tasks.external.files import Foreign, ForeignDirectory, positions
from slimline.tasks.external.ports import Names, Tensor, cache_ports, config_names, genai_names, graph_inputs
from slimline.tasks.external.weights import count_weights
from slimline.tasks.models.checkpoint import CheckpointError
from slimline.tasks.models.external import Layout
from slimline.tasks.specs import External

_GENAI = "genai_config.json"
_MERGED, _FIRST, _NEXT = "decoder_model_merged.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx"
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
# Parts of the names of operators with quantized weights, and of constants that are not weights.
_QUANTIZED = ("NBits", "Integer", "QLinear", "QAttention", "QGemm", "Dequantize", "BlockQuantized", "QMoE")
_TABLES = ("cos_cache", "sin_cache")


def read(spec: External, directory: ForeignDirectory) -> Foreign:
    """The layout of the graph in a directory; parameters, unless its weights are quantized.

    Raises:
        CheckpointError: it has no key/value cache, or other inputs than those that are known; it is an
            encoder-decoder; a file or tensor is missing or damaged.
    """
    genai, config = directory.object(_GENAI), directory.object("config.json")
    names = genai_names(genai, f"{directory.path}/{_GENAI}") if genai else config_names(config)
    graph, first = _choose(spec, directory, genai)
    where, model = f"{directory.path}/{graph}", _load(directory, graph)
    inputs, outputs = _inputs(model), [_tensor(each) for each in model.graph.output]
    cache = cache_ports(where, inputs, outputs, names)
    if not cache:
        raise CheckpointError(
            f"{where}: no inputs of a key/value cache, such as past_key_values.0.key; export it with one "
            "(optimum: --task text-generation-with-past)"
        )
    layout = Layout(
        format="onnx",
        n_positions=positions(directory, spec.n_positions, genai.get("model", {}).get("context_length")),
        vocabulary=_vocabulary(where, outputs, names, genai.get("model", {}) or config),
        graph=graph,
        first_graph=first,
        inputs=graph_inputs(where, inputs, names),
        logits=names.logits,
        cache=cache,
    )
    if first is not None:
        _check_first(f"{directory.path}/{first}", _load(directory, first), layout)
    return Foreign(layout, _parameters(where, model, directory.path / graph, layout.vocabulary))


def _choose(spec: External, directory: ForeignDirectory, genai: dict[str, Any]) -> tuple[str, str | None]:
    """The graph, and another one for the first run if there is one."""
    if spec.file or genai:
        return spec.file or genai["model"]["decoder"]["filename"], None
    for folder in ("", "onnx/"):
        for name in ("model.onnx", _MERGED):
            if directory.has(folder + name):
                return folder + name, None
        if directory.has(folder + _NEXT):
            return folder + _NEXT, folder + _FIRST
        if len(found := directory.names(f"{folder}*.onnx")) == 1:
            return found[0], None
        if found:
            raise CheckpointError(f"file: {directory.path} has several graphs: {', '.join(found)}; say which one")
    raise CheckpointError(f"{directory.path}: model.onnx is missing")


def _load(directory: ForeignDirectory, graph: str) -> onnx.ModelProto:
    """The graph, without the weights that are in other files, which are only looked for."""
    path = directory.take(graph)
    try:
        model = onnx.load_model(path, load_external_data=False)
    except Exception as error:  # of protobuf, which has many
        raise CheckpointError(f"{path}: not an ONNX graph: {error}") from error
    if not model.graph.input:
        raise CheckpointError(f"{path}: not an ONNX graph: it has no inputs")
    for tensor in _all_tensors(model):
        if uses_external_data(tensor):
            _check_external(directory, graph, tensor)
    return model


def _check_external(directory: ForeignDirectory, graph: str, tensor: TensorProto) -> None:
    info = ExternalDataInfo(tensor)
    name = str(PurePosixPath(graph).parent / (info.location or "."))
    path = directory.take(name, f"{graph} has the weight {tensor.name} in it")
    end = (info.offset or 0) + (info.length or 0)
    if (size := path.stat().st_size) < end:
        raise CheckpointError(f"{path}: {size} bytes, but {graph} describes {end}; truncated or damaged")


def _all_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    for graph in _graphs(model.graph):
        yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                yield from attribute.tensors
                if attribute.HasField("t"):
                    yield attribute.t


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph, and those of its branches and loops."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _graphs(inner)


def _inputs(model: onnx.ModelProto) -> list[Tensor]:
    stored = {each.name for each in model.graph.initializer}  # old exporters list weights as inputs
    return [_tensor(each) for each in model.graph.input if each.name not in stored]


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    shape = [each.dim_value if each.HasField("dim_value") else each.dim_param or "?" for each in kind.shape.dim]
    dtype = TensorProto.DataType.Name(kind.elem_type).lower()
    return Tensor(value.name, "float32" if dtype == "float" else dtype, shape)


def _vocabulary(where: str, outputs: list[Tensor], names: Names, config: dict[str, Any]) -> int:
    logits = next((each for each in outputs if each.name == names.logits), None)
    if logits is None:
        raise CheckpointError(f"{where}: output {names.logits} is missing")
    if len(logits.shape) != 3:
        raise CheckpointError(f"{where}: output {names.logits} has {len(logits.shape)} axes; allowed: 3")
    size = logits.shape[2] if isinstance(logits.shape[2], int) else config.get("vocab_size")
    if not isinstance(size, int):
        raise CheckpointError(f"{where}: neither {names.logits} nor config.json says the size of the vocabulary")
    return size


def _check_first(where: str, model: onnx.ModelProto, layout: Layout) -> None:
    """The graph of the first run has the same inputs, without a cache, and makes one."""
    outputs = {each.name for each in model.graph.output}
    for name in (layout.logits, *(port.present for port in layout.cache)):
        if name not in outputs:
            raise CheckpointError(f"{where}: output {name} is missing")
    assert layout.inputs
    fed = {port.name for _, port in layout.inputs if port}
    if different := fed ^ {each.name for each in _inputs(model)}:
        raise CheckpointError(f"{where}: other inputs than those of {layout.graph}: {', '.join(sorted(different))}")


def _parameters(where: str, model: onnx.ModelProto, path: Path, vocabulary: int) -> dict[str, int]:
    kinds = {node.op_type for graph in _graphs(model.graph) for node in graph.node}
    counted = count_weights(where, _weights(model, path), vocabulary)
    is_quantized = any(part in kind for kind in kinds for part in _QUANTIZED)
    return {} if is_quantized else counted


def _weights(model: onnx.ModelProto, path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    for graph in _graphs(model.graph):
        for tensor in graph.initializer:
            if tensor.data_type in _FLOATS and not tensor.name.endswith(_TABLES):
                yield tensor.name, _values(tensor, path)


def _values(tensor: TensorProto, path: Path) -> NDArray[Any]:
    try:
        values: NDArray[Any] = numpy_helper.to_array(tensor, base_dir=str(path.parent))
    except Exception as error:  # onnx has no class of its own
        raise CheckpointError(f"{path}: {tensor.name}: {error}") from error
    if values.size != math.prod(tensor.dims):
        raise CheckpointError(f"{path}: {tensor.name} has {values.size} values; its shape is {list(tensor.dims)}")
    return values.astype(np.float32) if tensor.data_type == TensorProto.BFLOAT16 else values
