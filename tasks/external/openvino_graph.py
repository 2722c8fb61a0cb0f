"""OpenVINO models of optimum-intel: with the key/value cache as their state, or as inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from slimline.tasks.engines.openvino_model import GRAPH, open_model, openvino
from slimline.tasks.external.files import Foreign, ForeignDirectory, positions
from slimline.tasks.external.ports import Names, Tensor, cache_ports, config_names, graph_inputs
from slimline.tasks.external.weights import count_weights
from slimline.tasks.models.checkpoint import CheckpointError
from slimline.tasks.models.external import Layout
from slimline.tasks.specs import External

_INTEGERS = ("i8", "u8", "i4", "u4", "u2", "u1", "nf4", "f4e2m1", "f8e4m3", "f8e5m2")


def read(spec: External, directory: ForeignDirectory) -> Foreign:
    """The layout of the model in a directory; parameters, unless its weights are quantized.

    Raises:
        CheckpointError: it has no key/value cache, or other inputs than those that are known; it is an
            encoder-decoder; a file is missing or damaged.
    """
    graph = spec.file or GRAPH
    if not spec.file and (others := directory.names("openvino_encoder*.xml", "openvino_decoder*.xml")):
        raise CheckpointError(f"{directory.path}: {others[0]} is of an encoder-decoder; allowed: decoder-only models")
    path = directory.take(graph)
    directory.take(str(path.relative_to(directory.path).with_suffix(".bin")), f"{graph} has its weights in it")
    model, config = open_model(path), directory.object("config.json")
    inputs, outputs = _tensors(model.inputs), _tensors(model.outputs)
    names = config_names(config)
    cache, ports = cache_ports(str(path), inputs, outputs, names), graph_inputs(str(path), inputs, names)
    if not cache and not model.get_variables():
        raise CheckpointError(
            f"{path}: no key/value cache, neither a state nor inputs such as past_key_values.0.key; export it with one "
            "(optimum: --task text-generation-with-past)"
        )
    layout = Layout(
        format="openvino",
        n_positions=positions(directory, spec.n_positions),
        vocabulary=_vocabulary(str(path), outputs, names, config),
        graph=graph,
        inputs=ports,
        cache=cache,
    )
    return Foreign(layout, _parameters(str(path), model, layout.vocabulary))


def _tensors(ports: list[Any]) -> list[Tensor]:
    return [
        Tensor(
            port.get_any_name() if port.get_names() else port.get_node().get_friendly_name(),
            str(port.get_element_type().to_dtype()),
            ["?" if size.is_dynamic else size.get_length() for size in port.get_partial_shape()],
        )
        for port in ports
    ]


def _vocabulary(where: str, outputs: list[Tensor], names: Names, config: dict[str, Any]) -> int:
    logits = next((each for each in outputs if each.name == names.logits), None)
    if logits is None:
        raise CheckpointError(f"{where}: output {names.logits} is missing")
    size = logits.shape[-1] if isinstance(logits.shape[-1], int) else config.get("vocab_size")
    if not isinstance(size, int):
        raise CheckpointError(f"{where}: neither {names.logits} nor config.json says the size of the vocabulary")
    return size


def _parameters(where: str, model: openvino.Model, vocabulary: int) -> dict[str, int]:
    constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    types = {node.get_element_type().get_type_name() for node in constants if len(node.get_output_shape(0)) > 1}
    counted = count_weights(where, _floats(constants), vocabulary)
    return {} if types.intersection(_INTEGERS) else counted


def _floats(constants: list[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    for node in constants:
        if node.get_element_type().get_type_name() in ("f16", "f32", "f64"):
            yield node.get_friendly_name(), node.data
