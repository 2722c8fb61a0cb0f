"""How much a model must compute and read, and so what share of the host's limits a measured speed is.

Source: Williams et al., Roofline (CACM 52(4), 2009). The prefill's share is what PaLM (arXiv:2204.02311, appendix B)
calls model FLOPs utilization: only operations that the result needs count, whatever else an engine does.

With L layers, E channels, I feed-forward channels, V tokens of vocabulary, and a multiply-add as two operations:

    operations per prompt token     2 [3 L E^2 + (L - 1) (E^2 + 2 E I)] + 4 L E c
    operations per prompt           2 [E^2 + 2 E I + V E]
    bytes per decoded token         W + 2 L E c b

c is the mean number of positions that a token attends to, itself included: 2 E operations each for queries by keys and
weights by values. The last block's output projection and feed-forward part and the head are needed for a prompt's last
token only, so they count once a prompt. W is the stored bytes of all weights but those that are only gathered from (the
position table, and the token table unless it is the head as well), b the bytes of a cached number.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from slimline.tasks.measurement.peaks import Precision
from slimline.tasks.models.checkpoint import Gpt2Config, read_gpt2_config
from slimline.tasks.specs import Engine

_MASKS = (".attn.bias", ".attn.masked_bias")  # constants that GPT-2 checkpoints of older transformers store
_NO_WEIGHTS = (".json", ".txt", ".xml")
# What may stand between a table and its gathering without changing which rows are read.
_LAYOUT = {"Cast", "Convert", "DequantizeLinear", "Multiply", "Reshape", "Subtract", "Transpose"}


class ModelWork(NamedTuple):
    """What a model needs: operations, and bytes that are read, per token, per prompt, and per attended position."""

    operations_per_token: float
    operations_per_position: float
    operations_per_prompt: float
    weight_bytes: float
    cache_bytes_per_position: float
    precision: Precision
    """What most of its matrix multiplications compute in."""

    def prefill_operations(self, context: float, prompts_per_token: float) -> float:
        """Operations per prompt token that attends to `context` positions in the mean."""
        attention = self.operations_per_position * context
        return self.operations_per_token + attention + self.operations_per_prompt * prompts_per_token

    def decode_bytes(self, context: float, beams: int) -> float:
        """Bytes per decoded token that attends to `context` positions in the mean, each beam to its own."""
        return self.weight_bytes + self.cache_bytes_per_position * context * beams


def work_of(directory: Path, engine: Engine, notes: Mapping[str, Any]) -> ModelWork:
    """The work of an artifact's model on an engine; `notes` of the step that made it count its int8 multiplications.

    Raises CheckpointError for a directory without a GPT-2's configuration.
    """
    config = read_gpt2_config(directory)
    layers, width, inner = config["n_layer"], config["n_embd"], config["n_inner"]
    attention_input, rest = 3 * width**2, width**2 + 2 * width * inner
    cached_bytes = 2 if engine.dtype == "bfloat16" else 4
    return ModelWork(
        operations_per_token=2 * (layers * attention_input + (layers - 1) * rest),
        operations_per_position=4 * layers * width,
        operations_per_prompt=2 * (rest + config["vocab_size"] * width),
        weight_bytes=_weight_bytes(directory, config, engine),
        cache_bytes_per_position=2 * layers * width * cached_bytes,
        precision=_precision(engine, notes),
    )


def _precision(engine: Engine, notes: Mapping[str, Any]) -> Precision:
    if 2 * notes.get("int8_matmuls", 0) >= notes.get("matmuls", math.inf):
        return "int8"
    return engine.dtype


class _Stored(NamedTuple):
    """One stored tensor: its bytes, whether it is fp32, and whether it is only ever gathered from."""

    size: float
    is_fp32: bool
    gathered: bool


def _weight_bytes(directory: Path, config: Gpt2Config, engine: Engine) -> float:
    """Bytes of the weights that a decoding pass reads; bfloat16 engines halve those in fp32 when they load them."""
    readers = {"*.safetensors": _of_safetensors, "*.onnx": _of_onnx, "openvino_model.xml": _of_openvino}
    for pattern, reader in readers.items():
        if found := sorted(directory.glob(pattern)):
            tensors = [tensor for path in found for tensor in reader(path)]
            halved = engine.dtype == "bfloat16"
            return sum(t.size / 2 if halved and t.is_fp32 else t.size for t in tensors if not t.gathered)
    return _of_files(directory, config)


def _of_safetensors(path: Path) -> Iterator[_Stored]:
    """By GPT-2's names: `wpe`, and `wte` where a head is stored beside it."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    names = [name for name in header if name != "__metadata__" and not name.endswith(_MASKS)]
    has_head = any("lm_head" in name for name in names)
    for name in names:
        begin, end = header[name]["data_offsets"]
        yield _Stored(end - begin, header[name]["dtype"] == "F32", "wpe" in name or (has_head and "wte" in name))


class _Use(NamedTuple):
    """What takes a value, and the name of what it makes of it."""

    operator: str
    output: str


Uses = Mapping[str, Sequence[_Use]]


def _only_gathered(name: str, uses: Uses) -> bool:
    taken = uses.get(name, ())
    return bool(taken) and all(
        use.operator.startswith("Gather") or (use.operator in _LAYOUT and _only_gathered(use.output, uses))
        for use in taken
    )


def _uses(edges: Iterable[tuple[str, _Use]]) -> Uses:
    found: dict[str, list[_Use]] = defaultdict(list)
    for name, use in edges:
        found[name].append(use)
    return found


def _of_onnx(path: Path) -> Iterator[_Stored]:
    import onnx

    graph = onnx.load_model(path, load_external_data=False).graph
    uses = _uses((name, _Use(node.op_type, node.output[0])) for node in graph.node for name in node.input)
    four_bits = {onnx.TensorProto.INT4, onnx.TensorProto.UINT4}
    for tensor in graph.initializer:
        item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        size = math.prod(tensor.dims) * (0.5 if tensor.data_type in four_bits else item)
        yield _Stored(size, tensor.data_type == onnx.TensorProto.FLOAT, _only_gathered(tensor.name, uses))


def _of_openvino(path: Path) -> Iterator[_Stored]:
    """OpenVINO's IR: layers with their constants' sizes, and edges between layers."""
    network = ElementTree.parse(path).getroot()  # noqa: S314 - a file of our own making, verified by its digest
    layers = {layer.attrib["id"]: layer for layer in network.iterfind("./layers/layer")}
    edges = [edge.attrib for edge in network.iterfind("./edges/edge")]
    uses = _uses(
        (edge["from-layer"], _Use(layers[edge["to-layer"]].attrib["type"], edge["to-layer"])) for edge in edges
    )
    for name, layer in layers.items():
        data = layer.find("data")
        if layer.attrib["type"] == "Const" and data is not None:
            yield _Stored(int(data.attrib["size"]), data.attrib["element_type"] == "f32", _only_gathered(name, uses))


def _of_files(directory: Path, config: Gpt2Config) -> float:
    """Formats whose tensors are not listed here store a tied table once, and positions in fp32."""
    files = [path for path in directory.iterdir() if path.is_file() and path.suffix not in _NO_WEIGHTS]
    stored = sum(path.stat().st_size for path in files) - 4 * config["n_positions"] * config["n_embd"]
    if config["tie_word_embeddings"]:
        return stored
    table = config["vocab_size"] * config["n_embd"]
    blocks = config["n_layer"] * (4 * config["n_embd"] ** 2 + 2 * config["n_embd"] * config["n_inner"])
    return stored * (blocks + table) / (blocks + 2 * table)  # every matrix in the same precision
