"""A thin writer of ONNX graphs: nodes are appended, constants are named once, and the file is written whole."""

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
    """Collects the nodes and constants of one graph, in topological order."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: ArrayLike) -> str:
        """Adds a constant unless one of that name is there; returns the name."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name)
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Adds a node with one output, whose name is returned."""
        return self.nodes_out(kind, inputs, [output or f"{kind}_{len(self.nodes)}"], **attributes)[0]

    def nodes_out(self, kind: str, inputs: Sequence[str], outputs: list[str], **attributes: Any) -> list[str]:
        """Adds a node with several outputs."""
        self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        return outputs

    def model(self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
        """The model with these inputs and outputs."""
        graph = helper.make_graph(self.nodes, "gpt2", inputs, outputs, list(self.constants.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="slimline")


def save(model: onnx.ModelProto, path: Path) -> None:
    """Writes the graph to `path` and its weights to `<path>.data` beside it, which `model` then refers to.

    onnxruntime maps weights beside the graph into memory; those within it would be parsed and copied, and a protobuf
    file cannot exceed 2 GiB.
    """
    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)  # onnx would append to it
    onnx.save_model(model, path, save_as_external_data=True, location=data.name)
