"""Export of a GPT-2 to an ONNX graph with a key/value cache, which is built from the weights without tracing or torch.

Attention is onnxruntime's `GroupQueryAttention`, which needs no mask for rows of different lengths and updates the
cache in place. The last layer's feed-forward part and the head are computed only for the `wanted` tokens, because no
other logits are used. An `Arithmetic` decides how matrices are applied; those in int8 are in tasks/quantization.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from slimline.tasks.export.gpt2_tensors import Gpt2Tensors, refuse_unsupported
from slimline.tasks.export.onnx_graph import CONTRIB, OPSET, GraphWriter, save
from slimline.tasks.models.checkpoint import (
    CheckpointError,
    Gpt2Config,
    check_weights,
    copy_config_and_tokenizer,
    read_gpt2_config,
)

GRAPH = "model.onnx"
HEAD_WIDTH_MULTIPLE = 8  # required by onnxruntime's GroupQueryAttention
Weights = Callable[[str], NDArray[np.float32]]
"""A tensor of the model by GPT-2's own name, for example "h.0.attn.c_attn.weight" (inputs x outputs)."""


def export_onnx(model_dir: Path, target: Path) -> dict[str, Any]:
    """Export the checkpoint `model_dir` to `target`.

    The files are `model.onnx` (see `Gpt2Graph`), its weights in `model.onnx.data`, `config.json` and `tokenizer.json`.

    Returns:
        Notes for provenance: matmuls, parameters, tied_head, opset.

    Raises:
        CheckpointError: the checkpoint is damaged, dynamic-int8, or computes something that this graph does not.
    """
    config = read_gpt2_config(model_dir)
    refuse_unsupported(model_dir, config, "export-onnx")
    _refuse_head_width(model_dir, config)
    model = Gpt2Graph(config, Arithmetic(Gpt2Tensors(check_weights(model_dir), config).read)).build()
    # Counted before saving, which moves the weights out of the model.
    parameters = sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == TensorProto.FLOAT)
    write_export(model, model_dir, target)
    matmuls = sum(node.op_type in FLOAT_MATMULS for node in model.graph.node)
    tied = config["tie_word_embeddings"]
    return {"matmuls": matmuls, "parameters": parameters, "tied_head": tied, "opset": OPSET}


def write_export(model: onnx.ModelProto, source: Path, target: Path) -> None:
    """Write the graph, and the configuration and tokenizer of `source`, to `target`."""
    target.mkdir(parents=True, exist_ok=True)
    save(model, target / GRAPH)
    copy_config_and_tokenizer(source, target)


def _refuse_head_width(directory: Path, config: Gpt2Config) -> None:
    head_width = config["n_embd"] // config["n_head"]
    if head_width % HEAD_WIDTH_MULTIPLE:
        raise CheckpointError(
            f"{directory}/config.json: n_embd / n_head is {head_width}; "
            f"export-onnx allows multiples of {HEAD_WIDTH_MULTIPLE}"
        )


FLOAT_MATMULS = ("MatMul", "FusedMatMul")


class Arithmetic:
    """How a graph looks up embeddings and applies matrices: in fp32 here, in subclasses otherwise.

    The name of a projection is without suffix: "h.0.attn.c_attn" has a weight and a bias. Tokens are hidden states
    [rows, tokens, width].
    """

    def __init__(self, weights: Weights) -> None:
        self.graph = GraphWriter()
        self._weights = weights

    def weight(self, name: str) -> str:
        """Name of the constant in fp32 for the tensor `name`."""
        if name in self.graph.constants:
            return name
        return self.graph.constant(name, self._weights(name))

    def set_token_ids(self, ids: str) -> None:
        """Say that all following tokens have the shape of `ids` (any integers, [rows, tokens])."""

    def rows(self, table: str, ids: str) -> str:
        """The table's row for each id ([rows, tokens])."""
        return self.graph.node("Gather", [self.weight(table), ids])

    def project(self, name: str, tokens: str) -> str:
        """Tokens x weight + bias."""
        return self.graph.node("Add", [self._product(name, tokens), self.weight(f"{name}.bias")])

    def project_gelu(self, name: str, tokens: str) -> str:
        """gelu(tokens x weight + bias), GPT-2's approximation by tanh."""
        inputs = [self._product(name, tokens), self.weight(f"{name}.bias")]
        return self.graph.node("FastGelu", inputs, domain=CONTRIB)

    def project_onto(self, name: str, tokens: str, residual: str) -> str:
        """Residual + tokens x weight + bias."""
        return self.graph.node("Add", [residual, self.project(name, tokens)])

    def head(self, table: str, tokens: str, output: str) -> None:
        """`output` = tokens x the transposed table."""
        self.graph.node("FusedMatMul", [tokens, self.weight(table)], output, domain=CONTRIB, transB=1)

    def _product(self, name: str, tokens: str) -> str:
        return self.graph.node("MatMul", [tokens, self.weight(f"{name}.weight")])


class Gpt2Graph:
    """GPT-2 with a key/value cache.

    The inputs are

    - input_ids and position_ids [rows, new];
    - wanted [rows, m]: indices of the new tokens whose logits are returned;
    - seqlens_k [rows]: number of each row's tokens, including the new ones, less one;
    - total_sequence_length: number of tokens of the longest row;
    - past_key_i and past_value_i [rows, heads, capacity, head width].

    The outputs are logits [rows, m, vocabulary], and present_key_i and present_value_i, which must be bound to the same
    memory as the past ones.
    """

    def __init__(self, config: Gpt2Config, arithmetic: Arithmetic) -> None:
        self._config = config
        self._arithmetic = arithmetic
        self._graph = arithmetic.graph

    def build(self) -> onnx.ModelProto:
        """The whole model."""
        arithmetic, config = self._arithmetic, self._config
        arithmetic.set_token_ids("input_ids")
        tables = (("wte.weight", "input_ids"), ("wpe.weight", "position_ids"))
        hidden = self._graph.node("Add", [arithmetic.rows(table, ids) for table, ids in tables])
        for layer in range(config["n_layer"]):
            hidden = self._block(layer, hidden, last=layer == config["n_layer"] - 1)
        table = "wte.weight" if config["tie_word_embeddings"] else "lm_head.weight"
        arithmetic.head(table, self._norm("ln_f", hidden), "logits")
        return self._graph.model(self._inputs(), self._outputs())

    def _block(self, layer: int, hidden: str, last: bool) -> str:
        arithmetic, name = self._arithmetic, f"h.{layer}"
        projected = arithmetic.project(f"{name}.attn.c_attn", self._norm(f"{name}.ln_1", hidden))
        attended = self._attend(layer, projected)
        if last:
            index = self._graph.node("Unsqueeze", ["wanted", self._graph.constant("last_axis", np.array([-1]))])
            attended, hidden = (
                self._graph.node("GatherND", [tokens, index], batch_dims=1) for tokens in (attended, hidden)
            )
            arithmetic.set_token_ids("wanted")
        hidden = arithmetic.project_onto(f"{name}.attn.c_proj", attended, hidden)
        activated = arithmetic.project_gelu(f"{name}.mlp.c_fc", self._norm(f"{name}.ln_2", hidden))
        return arithmetic.project_onto(f"{name}.mlp.c_proj", activated, hidden)

    def _attend(self, layer: int, projected: str) -> str:
        """Causal self-attention [rows, new, width] over the cache and the new tokens."""
        heads = self._config["n_head"]
        scale = (self._config["n_embd"] // heads) ** -0.5 if self._config["scale_attn_weights"] else 1.0
        past = [f"past_key_{layer}", f"past_value_{layer}"]
        outputs = [f"attended_{layer}", f"present_key_{layer}", f"present_value_{layer}"]
        inputs = [projected, "", "", *past, "seqlens_k", "total_sequence_length"]
        attributes = {"num_heads": heads, "kv_num_heads": heads, "scale": scale}
        return self._graph.node_with_outputs("GroupQueryAttention", inputs, outputs, domain=CONTRIB, **attributes)[0]

    def _norm(self, name: str, hidden: str) -> str:
        inputs = [hidden, self._arithmetic.weight(f"{name}.weight"), self._arithmetic.weight(f"{name}.bias")]
        return self._graph.node("LayerNormalization", inputs, axis=-1, epsilon=self._config["layer_norm_epsilon"])

    def _inputs(self) -> list[onnx.ValueInfoProto]:
        value = helper.make_tensor_value_info
        return [
            value("input_ids", TensorProto.INT64, ["rows", "new"]),
            value("position_ids", TensorProto.INT64, ["rows", "new"]),
            value("wanted", TensorProto.INT64, ["rows", "m"]),
            value("seqlens_k", TensorProto.INT32, ["rows"]),
            value("total_sequence_length", TensorProto.INT32, []),
            *self._cache("past"),
        ]

    def _outputs(self) -> list[onnx.ValueInfoProto]:
        shape: list[str | int | None] = ["rows", "m", self._config["vocab_size"]]
        return [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape), *self._cache("present")]

    def _cache(self, when: str) -> list[onnx.ValueInfoProto]:
        heads = self._config["n_head"]
        shape: list[str | int | None] = ["rows", heads, "capacity", self._config["n_embd"] // heads]
        names = [f"{when}_{kind}_{layer}" for layer in range(self._config["n_layer"]) for kind in ("key", "value")]
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names]
