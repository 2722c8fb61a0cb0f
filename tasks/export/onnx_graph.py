"""Building and saving of ONNX graphs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import helper, numpy_helper

CONTRIB = "com.microsoft"
OPSET = 21
IR_VERSION = 10


class GraphWriter:
    """The nodes, in topological order, and constants of a graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: ArrayLike) -> str:
        """Add a constant unless there is one with that name; returns the name."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name)
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        return self.node_with_outputs(kind, inputs, [output or f"{kind}_{len(self.nodes)}"], **attributes)[0]

    def node_with_outputs(self, kind: str, inputs: Sequence[str], outputs: list[str], **attributes: Any) -> list[str]:
        """Add a node with several outputs; returns their names."""
        self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        return outputs

    def model(self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
        """The model with these inputs and outputs."""
        graph = helper.make_graph(self.nodes, "gpt2", inputs, outputs, list(self.constants.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="slimline")


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write the graph to `path` and its weights to `<path>.data`; then `model` refers to that file.

    onnxruntime maps separate weights into memory, but parses and copies those in the graph; and a protobuf file cannot
    be larger than 2 GiB.
    """
    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)  # onnx would append to it
    onnx.save_model(model, path, save_as_external_data=True, location=data.name)
