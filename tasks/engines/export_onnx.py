"""GPT-2 as one ONNX graph with a key/value cache, built straight from the weights: the architecture is known, so
nothing is traced and torch is not needed.

The tokens of all rows are laid out as one matrix, so a projection is a plain `Gemm`; attention is onnxruntime's
`GroupQueryAttention`, which takes rows of different lengths without a mask and updates the cache in place. Only each
row's last token goes through the last layer's feed-forward part and the head: no other logits are ever used.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from safetensors import safe_open

from tasks.engines.checkpoint import CheckpointError, Gpt2Config, check_weights, is_dynamic_int8, read_gpt2_config
from tasks.engines.graph import CONTRIB, OPSET, GraphWriter, save

HEAD_WIDTH_MULTIPLE = 8  # onnxruntime's GroupQueryAttention accepts no other
_ALLOWED: dict[str, object] = {
    "activation_function": "gelu_new",
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def export_onnx(model_dir: Path, target: Path) -> dict[str, Any]:
    """Writes `model.onnx`, `config.json` and `tokenizer.json` for the checkpoint `model_dir` into `target`.

    Graph inputs: input_ids and position_ids [rows, new], last_index [rows, 1] (of each row's last real token among the
    new ones), seqlens_k [rows] (tokens so far, the new ones included, less one), total_sequence_length (the longest
    row's), past_key_i and past_value_i [rows, heads, capacity, head width]. Outputs: logits [rows, vocabulary] of each
    row's last token, present_key_i and present_value_i, to be bound to the same memory as the past.

    Returns:
        Notes for provenance: matmuls, parameters, tied_head, opset.

    Raises:
        CheckpointError: the checkpoint is unusable, dynamic-int8, or computes something that this graph does not.
    """
    config = read_gpt2_config(model_dir)
    _refuse_unsupported(model_dir, config)
    weights = _Weights(check_weights(model_dir), config)
    model = _Gpt2Graph(config, weights).build()
    target.mkdir(parents=True, exist_ok=True)
    save(model, target / "model.onnx")
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(model_dir / name, target / name)
    parameters = sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == TensorProto.FLOAT)
    matmuls = sum(node.op_type == "Gemm" for node in model.graph.node)
    tied = config["tie_word_embeddings"]
    return {"matmuls": matmuls, "parameters": parameters, "tied_head": tied, "opset": OPSET}


def _refuse_unsupported(directory: Path, config: Gpt2Config) -> None:
    if is_dynamic_int8(directory):
        raise CheckpointError(
            f"{directory}: quantized by dynamic-int8; export-onnx needs fp32 weights, so export first"
        )
    for field, allowed in _ALLOWED.items():
        found = config[field]  # type: ignore[literal-required]
        if found != allowed:
            raise CheckpointError(f"{directory}/config.json: {field} is {found!r}; export-onnx allows {allowed!r}")
    head_width = config["n_embd"] // config["n_head"]
    if head_width % HEAD_WIDTH_MULTIPLE:
        raise CheckpointError(
            f"{directory}/config.json: n_embd / n_head is {head_width}; "
            f"export-onnx allows multiples of {HEAD_WIDTH_MULTIPLE}"
        )
    if not (directory / "tokenizer.json").is_file():
        raise CheckpointError(f"{directory}: tokenizer.json is missing")


class _Weights:
    """The checkpoint's tensors by GPT-2's own names, each checked for shape and type when it is read."""

    def __init__(self, path: Path, config: Gpt2Config) -> None:
        self._path = path
        self._file = _open(path)
        self._names = set(self._file.keys())
        width, inner = config["n_embd"], config["n_inner"]
        self._shapes = {
            "wte.weight": (config["vocab_size"], width),
            "wpe.weight": (config["n_positions"], width),
            "lm_head.weight": (config["vocab_size"], width),
            "attn.c_attn.weight": (width, 3 * width),
            "attn.c_attn.bias": (3 * width,),
            "attn.c_proj.weight": (width, width),
            "mlp.c_fc.weight": (width, inner),
            "mlp.c_fc.bias": (inner,),
            "mlp.c_proj.weight": (inner, width),
        }
        self._width = width

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor `name`, for example "h.0.attn.c_attn.weight" (inputs x outputs)."""
        stored = next((key for key in (f"transformer.{name}", name) if key in self._names), None)
        if stored is None:
            raise CheckpointError(f"{self._path}: tensor {name} is missing")
        tensor = self._file.get_slice(stored)
        shape = self._shapes.get(name.split(".", 2)[-1] if name.startswith("h.") else name, (self._width,))
        if tensor.get_dtype() != "F32" or tuple(tensor.get_shape()) != shape:
            raise CheckpointError(
                f"{self._path}: tensor {stored} is {tensor.get_dtype()} {tensor.get_shape()}; "
                f"allowed: F32 {list(shape)}"
            )
        values: NDArray[np.float32] = self._file.get_tensor(stored)
        return values


def _open(path: Path) -> Any:
    """The safetensors file as Any: its methods carry no annotations."""
    return safe_open(path, framework="numpy")


class _Gpt2Graph:
    def __init__(self, config: Gpt2Config, weights: _Weights) -> None:
        self._config = config
        self._weights = weights
        self._graph = GraphWriter()

    def build(self) -> onnx.ModelProto:
        graph, config = self._graph, self._config
        hidden = self._embed()
        for layer in range(config["n_layer"]):
            hidden = self._block(layer, hidden, last=layer == config["n_layer"] - 1)
        head = "wte.weight" if config["tie_word_embeddings"] else "lm_head.weight"
        graph.node("Gemm", [self._norm("ln_f", hidden), self._weight(head)], "logits", transB=1)
        return graph.model(self._inputs(), self._outputs())

    def _embed(self) -> str:
        """Hidden states [rows * new, width]; also leaves what the blocks need to find each row again."""
        graph, width = self._graph, self._config["n_embd"]
        flat = graph.constant("flat", np.array([-1]))
        embedded = [
            graph.node("Gather", [self._weight(table), graph.node("Reshape", [ids, flat])])
            for table, ids in (("wte.weight", "input_ids"), ("wpe.weight", "position_ids"))
        ]
        rows_by_new = graph.node("Shape", ["input_ids"])
        graph.node("Concat", [rows_by_new, graph.constant("width_3", np.array([3 * width]))], "qkv_shape", axis=0)
        graph.node("Concat", [rows_by_new, graph.constant("width_1", np.array([width]))], "hidden_shape", axis=0)
        graph.constant("matrix", np.array([-1, width]))
        return graph.node("Add", embedded)

    def _block(self, layer: int, hidden: str, last: bool) -> str:
        graph, name = self._graph, f"h.{layer}"
        attended = self._attend(layer, self._project(f"{name}.attn.c_attn", self._norm(f"{name}.ln_1", hidden)))
        if last:
            attended = graph.node("GatherND", [attended, "last_index"], batch_dims=1)
            by_row = graph.node("Reshape", [hidden, "hidden_shape"])
            hidden = graph.node("GatherND", [by_row, "last_index"], batch_dims=1)
        else:
            attended = graph.node("Reshape", [attended, "matrix"])
        hidden = graph.node("Add", [hidden, self._project(f"{name}.attn.c_proj", attended)])
        inner = self._project(f"{name}.mlp.c_fc", self._norm(f"{name}.ln_2", hidden))
        activated = graph.node("Gelu", [inner], approximate="tanh")
        return graph.node("Add", [hidden, self._project(f"{name}.mlp.c_proj", activated)])

    def _attend(self, layer: int, projected: str) -> str:
        """Causal self-attention [rows, new, width] over the cache and the new tokens."""
        graph, heads = self._graph, self._config["n_head"]
        scale = (self._config["n_embd"] // heads) ** -0.5 if self._config["scale_attn_weights"] else 1.0
        packed = graph.node("Reshape", [projected, "qkv_shape"])
        past = [f"past_key_{layer}", f"past_value_{layer}"]
        outputs = [f"attended_{layer}", f"present_key_{layer}", f"present_value_{layer}"]
        inputs = [packed, "", "", *past, "seqlens_k", "total_sequence_length"]
        attributes = {"num_heads": heads, "kv_num_heads": heads, "scale": scale}
        return graph.nodes_out("GroupQueryAttention", inputs, outputs, domain=CONTRIB, **attributes)[0]

    def _norm(self, name: str, hidden: str) -> str:
        inputs = [hidden, self._weight(f"{name}.weight"), self._weight(f"{name}.bias")]
        return self._graph.node("LayerNormalization", inputs, axis=-1, epsilon=self._config["layer_norm_epsilon"])

    def _project(self, name: str, matrix: str) -> str:
        return self._graph.node("Gemm", [matrix, self._weight(f"{name}.weight"), self._weight(f"{name}.bias")])

    def _weight(self, name: str) -> str:
        if name in self._graph.constants:
            return name
        return self._graph.constant(name, self._weights.read(name))

    def _inputs(self) -> list[onnx.ValueInfoProto]:
        value = helper.make_tensor_value_info
        return [
            value("input_ids", TensorProto.INT64, ["rows", "new"]),
            value("position_ids", TensorProto.INT64, ["rows", "new"]),
            value("last_index", TensorProto.INT64, ["rows", 1]),
            value("seqlens_k", TensorProto.INT32, ["rows"]),
            value("total_sequence_length", TensorProto.INT32, []),
            *self._cache("past"),
        ]

    def _outputs(self) -> list[onnx.ValueInfoProto]:
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", self._config["vocab_size"]])
        return [logits, *self._cache("present")]

    def _cache(self, when: str) -> list[onnx.ValueInfoProto]:
        heads = self._config["n_head"]
        shape: list[str | int | None] = ["rows", heads, "capacity", self._config["n_embd"] // heads]
        names = [f"{when}_{kind}_{layer}" for layer in range(self._config["n_layer"]) for kind in ("key", "value")]
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names]
