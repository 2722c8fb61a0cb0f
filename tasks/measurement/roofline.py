"""The roofline model of a GPT-2: operations it must compute and bytes it must read.

Source: Williams et al., Roofline (CACM 52(4), 2009). As in PaLM's model FLOPs utilization (arXiv:2204.02311, appendix
B) only operations that the result needs count, even if an engine does more; but of attention only pairs of a token and
one before it count, where PaLM counts all.

With L layers, E channels, I feed-forward channels, V tokens of vocabulary, and a multiply-add as two operations:

    operations per prompt token     2 [(3 L - 1) E^2 + (L - 1) (E^2 + 2 E I)] + 4 (L - 1) E c + 4 E
    operations per prompt           2 [2 E^2 + 2 E I + V E]
    bytes per decoded token         W + 2 L E c b

c is the mean number of positions that a token attends to, including its own: 2 E operations each for queries times
keys and weights times values. Of the last block, queries, attention, output projection and feed-forward part are needed
for a prompt's last token only, as is the head, so they count once per prompt; that token attends to every token of the
prompt, hence the 4 E. W is the stored bytes of all weights except tables that are only looked up (the position table,
and the token table unless it is also the head). b is the bytes of a cached number.
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
from slimline.tasks.models.checkpoint import ATTENTION_MASKS, Gpt2Config, read_gpt2_config
from slimline.tasks.specs import Engine

_NO_WEIGHTS = (".json", ".txt", ".xml")
# Operators that may come between a table and its lookup without a change of the rows that are read.
_LAYOUT = {"Cast", "Convert", "DequantizeLinear", "Multiply", "Reshape", "Subtract", "Transpose"}


class ModelWork(NamedTuple):
    """Operations that a model computes and bytes that it reads.

    Attributes:
        operations_per_token: For each token of a prompt, without its attention to other positions.
        operations_per_position: For each position that a token attends to.
        operations_per_prompt: Once per prompt.
        weight_bytes: Read in each decoding pass.
        cache_bytes_per_position: Read in each decoding pass for each position of the key/value cache.
        precision: In which most of its matrix multiplications are computed.
    """

    operations_per_token: float
    operations_per_position: float
    operations_per_prompt: float
    weight_bytes: float
    cache_bytes_per_position: float
    precision: Precision

    def prefill_operations(self, context: float, prompts_per_token: float) -> float:
        """Operations per token of a prompt; `context` is the mean number of positions that a token attends to."""
        attention = self.operations_per_position * context
        return self.operations_per_token + attention + self.operations_per_prompt * prompts_per_token

    def decode_bytes(self, context: float, beams: int) -> float:
        """Bytes per decoded token, if a beam attends to `context` positions on average; beams share no positions."""
        return self.weight_bytes + self.cache_bytes_per_position * context * beams


def work_of(directory: Path, engine: Engine, notes: Mapping[str, Any]) -> ModelWork:
    """What the model of an artifact computes and reads on an engine.

    Args:
        directory: The artifact's files.
        engine: The engine that runs it.
        notes: The artifact's notes; they have the number of its int8 multiplications.

    Raises:
        CheckpointError: `directory` has no configuration of a GPT-2.
    """
    config = read_gpt2_config(directory)
    layers, width, inner = config["n_layer"], config["n_embd"], config["n_inner"]
    keys_and_values, rest = 2 * width**2, 2 * width**2 + 2 * width * inner
    cached_bytes = 2 if engine.dtype == "bfloat16" else 4
    return ModelWork(
        operations_per_token=2 * (layers * keys_and_values + (layers - 1) * rest) + 4 * width,
        operations_per_position=4 * (layers - 1) * width,
        operations_per_prompt=2 * (rest + config["vocab_size"] * width),
        weight_bytes=_weight_bytes(directory, config, engine),
        cache_bytes_per_position=2 * layers * width * cached_bytes,
        precision=_precision(engine, notes),
    )


def _precision(engine: Engine, notes: Mapping[str, Any]) -> Precision:
    if 2 * notes.get("int8_matmuls", 0) >= notes.get("matmuls", math.inf):
        return "int8"
    return engine.dtype


class _StoredTensor(NamedTuple):
    """One stored tensor: its bytes, whether it is fp32, and whether it is a table that is only looked up."""

    size: float
    is_fp32: bool
    is_lookup: bool


def _weight_bytes(directory: Path, config: Gpt2Config, engine: Engine) -> float:
    """Bytes of the weights that a decoding pass reads; bfloat16 engines store fp32 weights in half the bytes."""
    readers = {"*.safetensors": _read_safetensors, "*.onnx": _read_onnx, "openvino_model.xml": _read_openvino}
    for pattern, reader in readers.items():
        if found := sorted(directory.glob(pattern)):
            tensors = [tensor for path in found for tensor in reader(path)]
            halved = engine.dtype == "bfloat16"
            return sum(t.size / 2 if halved and t.is_fp32 else t.size for t in tensors if not t.is_lookup)
    return _estimate_bytes(directory, config)


def _read_safetensors(path: Path) -> Iterator[_StoredTensor]:
    """Tensors by GPT-2's names; lookup tables are `wpe`, and `wte` where the file has a separate head."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    names = [name for name in header if name != "__metadata__" and not name.endswith(ATTENTION_MASKS)]
    has_head = any("lm_head" in name for name in names)
    for name in names:
        begin, end = header[name]["data_offsets"]
        is_lookup = "wpe" in name or (has_head and "wte" in name)
        yield _StoredTensor(end - begin, header[name]["dtype"] == "F32", is_lookup)


class _Use(NamedTuple):
    """An operator that has a value as its input, and the name of the operator's output."""

    operator: str
    output: str


_Uses = Mapping[str, Sequence[_Use]]


def _is_lookup(name: str, uses: _Uses) -> bool:
    own = uses.get(name, ())
    return bool(own) and all(
        use.operator.startswith("Gather") or (use.operator in _LAYOUT and _is_lookup(use.output, uses)) for use in own
    )


def _uses(edges: Iterable[tuple[str, _Use]]) -> _Uses:
    found: dict[str, list[_Use]] = defaultdict(list)
    for name, use in edges:
        found[name].append(use)
    return found


def _read_onnx(path: Path) -> Iterator[_StoredTensor]:
    import onnx

    graph = onnx.load_model(path, load_external_data=False).graph
    uses = _uses((name, _Use(node.op_type, node.output[0])) for node in graph.node for name in node.input)
    four_bits = {onnx.TensorProto.INT4, onnx.TensorProto.UINT4}
    for tensor in graph.initializer:
        item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        size = math.prod(tensor.dims) * (0.5 if tensor.data_type in four_bits else item)
        yield _StoredTensor(size, tensor.data_type == onnx.TensorProto.FLOAT, _is_lookup(tensor.name, uses))


def _read_openvino(path: Path) -> Iterator[_StoredTensor]:
    """Constants of OpenVINO's IR, which lists layers with the sizes of constants, and edges between layers."""
    network = ElementTree.parse(path).getroot()  # noqa: S314 - we wrote the file, and its digest was checked
    layers = {layer.attrib["id"]: layer for layer in network.iterfind("./layers/layer")}
    edges = [edge.attrib for edge in network.iterfind("./edges/edge")]
    uses = _uses(
        (edge["from-layer"], _Use(layers[edge["to-layer"]].attrib["type"], edge["to-layer"])) for edge in edges
    )
    for name, layer in layers.items():
        data = layer.find("data")
        if layer.attrib["type"] == "Const" and data is not None:
            yield _StoredTensor(int(data.attrib["size"]), data.attrib["element_type"] == "f32", _is_lookup(name, uses))


def _estimate_bytes(directory: Path, config: Gpt2Config) -> float:
    """Weight bytes by the sizes of files, for formats that store a tied table once and positions in fp32."""
    files = [path for path in directory.iterdir() if path.is_file() and path.suffix not in _NO_WEIGHTS]
    stored = sum(path.stat().st_size for path in files) - 4 * config["n_positions"] * config["n_embd"]
    if config["tie_word_embeddings"]:
        return stored
    table = config["vocab_size"] * config["n_embd"]
    blocks = config["n_layer"] * (4 * config["n_embd"] ** 2 + 2 * config["n_embd"] * config["n_inner"])
    return stored * (blocks + table) / (blocks + 2 * table)  # every matrix in the same precision
