"""Static int8 of an OpenVINO model by nncf: all projections, the tied head, and the embeddings.

Weights have one scale per output channel, activations one per tensor, which is calibrated on training windows;
SmoothQuant (arXiv:2211.10438) moves outliers of the activations into the weights first. The scales are constant, so
that a completion does not depend on the other prompts of a batch.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rich
from numpy.typing import NDArray
from tokenizers import Tokenizer

from slimline.tasks.data.packing import calibration_windows
from slimline.tasks.engines.openvino_model import GRAPH, compile_model, future_mask, openvino, read_model, save_model
from slimline.tasks.models.checkpoint import CheckpointError, read_gpt2_config
from slimline.tasks.runtime.host import usable_weight_bits
from slimline.tasks.specs import OpenvinoInt8

_PRODUCTS = ("FullyConnected", "MatMul")  # the CPU plugin's operators; attention is another one
_INT8 = ("i8", "u8")
_op = openvino.opset15


def quantize_openvino(source: Path, target: Path, spec: OpenvinoInt8, slice_dir: Path) -> dict[str, Any]:
    """Write the export `source` in int8 to `target`, calibrated on training windows as long as the model's context.

    Shorter windows would lack the later positions, whose activations have other ranges.

    Returns:
        Notes for provenance: matmuls and int8_matmuls as the compiled model executes them, int8_tables,
        calibration_windows, weight_bits.

    Raises:
        CheckpointError: `source` is not an fp32 export of export-openvino.
        ValueError: the training split is shorter than one window.
    """
    config = read_gpt2_config(source)
    model = read_model(source)
    _refuse_quantized(source, model)
    if not (source / "tokenizer.json").is_file():
        raise CheckpointError(f"{source}: tokenizer.json is missing")
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    field = "openvino-int8.calibration_samples"
    windows = calibration_windows(slice_dir, tokenizer, spec.calibration_samples, config["n_positions"], field)
    weight_bits = spec.weight_bits or usable_weight_bits()
    quantized = _quantize(model, windows, weight_bits)
    tables = _look_up_in_int8(quantized)
    save_model(quantized, source, target)
    notes = {"int8_tables": tables, "calibration_windows": len(windows), "weight_bits": weight_bits}
    return {**_count(target), **notes}


def _refuse_quantized(directory: Path, model: openvino.Model) -> None:
    if any(node.get_type_name() == "FakeQuantize" for node in model.get_ops()):
        raise CheckpointError(f"{directory / GRAPH}: is quantized; allowed: an fp32 export of export-openvino")


def _quantize(model: openvino.Model, windows: NDArray[np.int32], weight_bits: int) -> openvino.Model:
    import nncf

    nncf.set_log_level(logging.WARNING)
    order = np.arange(windows.shape[1])
    constant = {
        "position_ids": order[None],
        "mask": future_mask(len(order))[None, None],
        "beam_idx": np.zeros(1, dtype=np.int32),
        "wanted": order,
    }
    dataset = nncf.Dataset(windows, lambda window: {"input_ids": window[None].astype(np.int64), **constant})
    overflow = nncf.OverflowFix.DISABLE if weight_bits == 8 else nncf.OverflowFix.ENABLE
    with _bars_on_standard_error():
        return nncf.quantize(
            model,
            dataset,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(windows),
            # With attention's products in int8, the cache is not in the fused operator and is copied for every token.
            ignored_scope=nncf.IgnoredScope(types=["ScaledDotProductAttention"]),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=overflow),
        )


@contextmanager
def _bars_on_standard_error() -> Iterator[None]:
    """Send nncf's progress bars on rich's global console to standard error, and only if that is a terminal."""
    console = rich.get_console()
    before = console.stderr, console.quiet
    console.stderr, console.quiet = True, not sys.stderr.isatty()
    try:
        yield
    finally:
        console.stderr, console.quiet = before


def _look_up_in_int8(model: openvino.Model) -> int:
    """Scale the rows of embeddings after the lookup, not before; otherwise a compiled model has the table in fp32.

    Returns:
        Number of tables in int8.
    """
    lookups = [node for node in model.get_ordered_ops() if node.get_type_name() == "Gather" and _is_int8(node)]
    for lookup in lookups:
        widened, scales = lookup.input_value(0).get_node().input_values()
        ids, axis = lookup.input_values()[1:]
        rows = _op.convert(_op.gather(widened.get_node().input_value(0), ids, axis), "f32")
        lookup.output(0).replace(_op.multiply(rows, _op.gather(scales, ids, axis)).output(0))
    return len(lookups)


def _is_int8(lookup: openvino.Node) -> bool:
    """Whether the table of a lookup is integers times scales: Multiply(Convert(integers), scales)."""
    table = lookup.input_value(0).get_node()
    kinds = [table.get_type_name(), *(port.get_node().get_type_name() for port in table.input_values()[:1])]
    return kinds == ["Multiply", "Convert"]


def _count(directory: Path) -> dict[str, int]:
    """Matrix products with weights in the compiled graph, and those that it computes in int8."""
    compiled = compile_model(read_model(directory), "float32", threads=1)
    nodes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    products = [node["runtimePrecision"].astype(str) for node in nodes if node["layerType"].astype(str) in _PRODUCTS]
    return {"matmuls": len(products), "int8_matmuls": sum(precision in _INT8 for precision in products)}
