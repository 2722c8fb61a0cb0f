"""OpenVINO models on disk and on the CPU: written reproducibly, checked before they are mapped, compiled as asked."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slimline.tasks.models.checkpoint import CheckpointError, copy_beside

# Importing openvino reports that to its maker, and so does every use of nncf, unless this package cannot be found.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino as openvino  # noqa: E402 - imported from here by all others, so that none of them comes first

GRAPH = "openvino_model.xml"
WEIGHTS = "openvino_model.bin"
INPUTS = ("input_ids", "position_ids", "mask", "beam_idx", "wanted")

_CONSTANT = re.compile(r'<data element_type="[^"]*" shape="[^"]*" offset="(\d+)" size="(\d+)"')
_PRECISIONS = {"float32": ("f32", "FP32"), "bfloat16": ("bf16", "BF16")}  # the hint and the capability it takes

# Added to a score, it leaves no weight at all after the softmax; infinity would make a row that sees nothing NaN.
HIDDEN = np.float32(-1e30)


def future_mask(tokens: int) -> NDArray[np.float32]:
    """[tokens, tokens] to add to attention's scores: no token (row) sees a later one (column)."""
    order = np.arange(tokens)
    return np.where(order > order[:, None], HIDDEN, np.float32(0))


def save_model(model: openvino.Model, source: Path, target: Path) -> None:
    """Writes `model` into `target`, with the configuration and the tokenizer of `source`, the latter unindented.

    The same graph gives the same bytes.
    """
    # The names openvino makes up count all that the process has built before.
    for index, node in enumerate(model.get_ordered_ops()):
        node.set_friendly_name(f"{node.get_type_name()}_{index}")
    for parameter in model.inputs:
        parameter.get_node().set_friendly_name(parameter.get_any_name())
    target.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, target / GRAPH, compress_to_fp16=False)
    copy_beside(source, target)


def read_model(directory: Path) -> openvino.Model:
    """The model of `export-openvino` in `directory`, its weights mapped into memory.

    Raises:
        CheckpointError: a file is missing, damaged, or no such model.
    """
    for name in (GRAPH, WEIGHTS):
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory}: {name} is missing; export-openvino writes it")
    _check_size(directory)
    try:
        model = openvino.Core().read_model(directory / GRAPH)
    except RuntimeError as error:
        raise CheckpointError(f"{directory / GRAPH}: openvino cannot read it: {error}") from error
    names = {name for port in model.inputs for name in port.get_names()}
    if names != set(INPUTS):
        raise CheckpointError(
            f"{directory / GRAPH}: inputs are {', '.join(sorted(names))}; allowed: {', '.join(INPUTS)}"
        )
    return model


def _check_size(directory: Path) -> None:
    """A mapped file that is shorter than its graph says kills the process on the first read beyond its end."""
    graph = (directory / GRAPH).read_text(encoding="utf-8", errors="replace")
    ends = [int(offset) + int(size) for offset, size in _CONSTANT.findall(graph)]
    if not ends or not graph.rstrip().endswith("</net>"):
        raise CheckpointError(f"{directory / GRAPH}: not a whole openvino graph; truncated or damaged")
    if (size := (directory / WEIGHTS).stat().st_size) != max(ends):
        raise CheckpointError(
            f"{directory / WEIGHTS}: {size} bytes, but its graph describes {max(ends)}; truncated or damaged"
        )


def compile_model(model: openvino.Model, dtype: Literal["float32", "bfloat16"], threads: int) -> openvino.CompiledModel:
    """`model` for this CPU, as one stream of `threads` threads that compute, and cache keys and values, in `dtype`.

    By default openvino would compute in bfloat16 where the CPU can, cache in 8 bits, quantize activations, and pin
    threads to cores of its own choice.

    Raises:
        ValueError: this CPU cannot compute in `dtype`; openvino would silently do so in float32.
    """
    precision, capability = _PRECISIONS[dtype]
    if capability not in cpu_capabilities():
        raise ValueError(f"dtype: {dtype} is not what this CPU computes in; allowed: float32")
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "KV_CACHE_PRECISION": precision,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
    }
    return openvino.Core().compile_model(model, "CPU", settings)


def cpu_capabilities() -> list[str]:
    """What openvino says this CPU computes in natively, for example FP32, BF16 and INT8."""
    capabilities: list[str] = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return capabilities
