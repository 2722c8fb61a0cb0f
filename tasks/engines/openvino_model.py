"""OpenVINO models: reproducible files, checks before they are loaded, and settings of the CPU plugin."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slimline.tasks.models.checkpoint import CheckpointError, copy_config_and_tokenizer

# Without this, importing openvino, and every use of nncf, sends telemetry to the vendor.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # so that importing it fails

import openvino as openvino  # noqa: E402 - all other modules import it from here, after the line above

GRAPH = "openvino_model.xml"
INPUTS = ("input_ids", "position_ids", "mask", "beam_idx", "wanted")

_CONSTANT = re.compile(r'<data element_type="[^"]*" shape="[^"]*" offset="(\d+)" size="(\d+)"')
_PRECISIONS = {"float32": ("f32", "FP32"), "bfloat16": ("bf16", "BF16")}  # the hint and the capability it takes

# Added to a score, its softmax is zero; infinity would give NaN in a row where everything is masked.
MASK_VALUE = np.float32(-1e30)


def future_mask(tokens: int) -> NDArray[np.float32]:
    """The causal mask to add to attention scores, [tokens, tokens]: no token (row) attends to a later one (column)."""
    order = np.arange(tokens)
    return np.where(order > order[:, None], MASK_VALUE, np.float32(0))


def save_model(model: openvino.Model, source: Path, target: Path) -> None:
    """Write `model`, and the configuration and tokenizer of `source`, to `target`.

    The same graph gives the same bytes.
    """
    # OpenVINO's default names contain a counter of all nodes that the process has created.
    for index, node in enumerate(model.get_ordered_ops()):
        node.set_friendly_name(f"{node.get_type_name()}_{index}")
    for parameter in model.inputs:
        parameter.get_node().set_friendly_name(parameter.get_any_name())
    target.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, target / GRAPH, compress_to_fp16=False)
    copy_config_and_tokenizer(source, target)


def read_model(directory: Path) -> openvino.Model:
    """The model of `export-openvino` in `directory`, with weights mapped into memory.

    Raises:
        CheckpointError: a file is missing, damaged, or of another model.
    """
    model = open_model(directory / GRAPH)
    names = {name for port in model.inputs for name in port.get_names()}
    if names != set(INPUTS):
        raise CheckpointError(
            f"{directory / GRAPH}: inputs are {', '.join(sorted(names))}; allowed: {', '.join(INPUTS)}"
        )
    return model


def open_model(path: Path) -> openvino.Model:
    """The model of a graph and of the weights beside it, which are mapped into memory.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    for each in (path, path.with_suffix(".bin")):
        if not each.is_file():
            raise CheckpointError(f"{path.parent}: {each.name} is missing; export-openvino writes it")
    _check_size(path)
    try:
        return openvino.Core().read_model(path)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: openvino cannot read it: {error}") from error


def _check_size(path: Path) -> None:
    """Check the size of the weights: reading beyond the end of a mapped file would kill the process."""
    text, weights = path.read_text(encoding="utf-8", errors="replace"), path.with_suffix(".bin")
    ends = [int(offset) + int(size) for offset, size in _CONSTANT.findall(text)]
    if not ends or not text.rstrip().endswith("</net>"):
        raise CheckpointError(f"{path}: not a whole openvino graph; truncated or damaged")
    if (size := weights.stat().st_size) != max(ends):
        raise CheckpointError(f"{weights}: {size} bytes, but its graph describes {max(ends)}; truncated or damaged")


def compile_model(model: openvino.Model, dtype: Literal["float32", "bfloat16"], threads: int) -> openvino.CompiledModel:
    """Compile `model` for this CPU, as one stream of `threads` threads; computation and cache are in `dtype`.

    By default openvino computes in bfloat16 if the CPU can, caches in 8 bits, quantizes activations, and pins threads
    to cores that it chooses.

    Raises:
        ValueError: this CPU cannot compute in `dtype`; openvino would use float32 without a message.
    """
    precision, capability = _PRECISIONS[dtype]
    if capability not in cpu_capabilities():
        raise ValueError(f"dtype: {dtype} is not supported by this CPU; allowed: float32")
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
    """The types that this CPU computes in natively by openvino's names, for example FP32, BF16 and INT8."""
    capabilities: list[str] = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return capabilities
