"""Export of a GPT-2 to an OpenVINO model, which is built from the weights without tracing.

Keys and values are the model's state (`ReadValue`, `Assign`), in the form that the CPU plugin needs to append to them
in place, and to reorder rows by `beam_idx` without copying. The last layer's feed-forward part and the head are
computed only for the `wanted` tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from slimline.tasks.engines.openvino_model import openvino, save_model
from slimline.tasks.export.gpt2_tensors import Gpt2Tensors, refuse_unsupported
from slimline.tasks.models.checkpoint import Gpt2Config, check_weights, read_gpt2_config

_op = openvino.opset15


def export_openvino(source: Path, target: Path) -> dict[str, Any]:
    """Write `openvino_model.xml`, `.bin`, `config.json` and `tokenizer.json` for the checkpoint `source` to `target`.

    The model's inputs are

    - input_ids and position_ids [rows, new];
    - mask [rows or 1, 1, new, cached + new], to add to attention scores: 0 where a new token attends to a token,
      a large negative number elsewhere;
    - beam_idx [rows]: the previous row that each row continues;
    - wanted [m]: indices of the new tokens whose logits are returned.

    The output is logits [rows, m, vocabulary].

    Returns:
        Notes for provenance: matmuls, tied_head.

    Raises:
        CheckpointError: the checkpoint is damaged, dynamic-int8, or computes something that this graph does not.
    """
    config = read_gpt2_config(source)
    refuse_unsupported(source, config, "export-openvino")
    model = _Gpt2Model(config, Gpt2Tensors(check_weights(source), config)).build()
    save_model(model, source, target)
    matmuls = sum(node.get_type_name() == "MatMul" for node in model.get_ops())
    return {"matmuls": matmuls, "tied_head": config["tie_word_embeddings"]}


class _Gpt2Model:
    def __init__(self, config: Gpt2Config, weights: Gpt2Tensors) -> None:
        self._config = config
        self._weights = weights
        self._assigns: list[openvino.Node] = []
        self._constants: dict[str, openvino.Node] = {}
        integers = {"input_ids": [-1, -1], "position_ids": [-1, -1], "wanted": [-1]}
        self._inputs = {name: _op.parameter(shape, np.int64, name) for name, shape in integers.items()}
        self._inputs["mask"] = _op.parameter([-1, 1, -1, -1], np.float32, "mask")
        self._inputs["beam_idx"] = _op.parameter([-1], np.int32, "beam_idx")
        rows = _op.gather(_op.shape_of(self._inputs["input_ids"]), self._integers([0]), self._integers(0))
        self._head_shape = [config["n_head"], config["n_embd"] // config["n_head"]]
        shape = _op.concat([rows, self._integers([0, *self._head_shape])], 0)
        self._empty = _op.broadcast(_op.constant(np.float32(0)), shape)

    def build(self) -> openvino.Model:
        config, layers = self._config, self._config["n_layer"]
        embedding = self._weight("wte.weight")
        position = _op.gather(self._weight("wpe.weight"), self._inputs["position_ids"], self._integers(0))
        hidden = _op.add(_op.gather(embedding, self._inputs["input_ids"], self._integers(0)), position)
        for layer in range(layers):
            hidden = self._block(f"h.{layer}", hidden, last=layer == layers - 1)
        head = embedding if config["tie_word_embeddings"] else self._weight("lm_head.weight")
        logits = _op.matmul(self._norm("ln_f", hidden), head, transpose_a=False, transpose_b=True)
        for name, port in [("logits", logits), *self._inputs.items()]:
            port.output(0).set_names({name})
        return openvino.Model([_op.result(logits)], self._assigns, list(self._inputs.values()), "gpt2")

    def _block(self, name: str, hidden: openvino.Node, last: bool) -> openvino.Node:
        attended = self._attend(name, self._project(f"{name}.attn.c_attn", self._norm(f"{name}.ln_1", hidden)))
        if last:
            attended, hidden = (
                _op.gather(each, self._inputs["wanted"], self._integers(1)) for each in (attended, hidden)
            )
        hidden = _op.add(hidden, self._project(f"{name}.attn.c_proj", attended))
        inner = self._project(f"{name}.mlp.c_fc", self._norm(f"{name}.ln_2", hidden))
        return _op.add(hidden, self._project(f"{name}.mlp.c_proj", _op.gelu(inner, "tanh")))

    def _attend(self, name: str, projected: openvino.Node) -> openvino.Node:
        """Self-attention of the new tokens to the cache and themselves, [rows, new, width], with `mask`."""
        config = self._config
        width = config["n_embd"]
        parts = _op.variadic_split(projected, self._integers(2), self._integers([width] * 3)).outputs()
        by_head = [_op.reshape(part, self._integers([0, 0, *self._head_shape]), special_zero=True) for part in parts]
        known = [self._append(f"{name}.{what}", new) for what, new in zip(("key", "value"), by_head[1:], strict=True)]
        query, key, value = (_op.transpose(each, self._integers([0, 2, 1, 3])) for each in (by_head[0], *known))
        scale = self._head_shape[1] ** -0.5 if config["scale_attn_weights"] else 1.0
        attended = _op.scaled_dot_product_attention(
            query, key, value, self._inputs["mask"], _op.constant(np.float32(scale))
        )
        return _op.reshape(
            _op.transpose(attended, self._integers([0, 2, 1, 3])), self._integers([0, 0, width]), special_zero=True
        )

    def _append(self, name: str, new: openvino.Node) -> openvino.Node:
        """Reorder the rows of the state `name` [rows, cached, heads, head width], and append the new tokens."""
        shape = openvino.PartialShape([-1, -1, *self._head_shape])
        past = _op.read_value(self._empty, name, openvino.Type.f32, shape)
        present = _op.concat([_op.gather(past, self._inputs["beam_idx"], self._integers(0)), new], 1)
        self._assigns.append(_op.assign(present, name))
        return present

    def _norm(self, name: str, hidden: openvino.Node) -> openvino.Node:
        epsilon = self._config["layer_norm_epsilon"]
        normal = _op.mvn(hidden, self._integers([-1]), normalize_variance=True, eps=epsilon, eps_mode="inside_sqrt")
        return _op.add(_op.multiply(normal, self._weight(f"{name}.weight")), self._weight(f"{name}.bias"))

    def _project(self, name: str, hidden: openvino.Node) -> openvino.Node:
        by_output = np.ascontiguousarray(self._weights.read(f"{name}.weight").T)
        product = _op.matmul(hidden, _op.constant(by_output), transpose_a=False, transpose_b=True)
        return _op.add(product, self._weight(f"{name}.bias"))

    def _weight(self, name: str) -> openvino.Node:
        return _op.constant(self._weights.read(name))

    def _integers(self, values: int | list[int]) -> openvino.Node:
        """A constant; equal values share one node, because each node needs half a kilobyte of the file."""
        key = str(values)
        if key not in self._constants:
            self._constants[key] = _op.constant(np.array(values, dtype=np.int64))
        return self._constants[key]
