"""Weight-only quantization to int8 or int4 by neural-compressor, with rounding to nearest or GPTQ.

neural-compressor computes the integers and scales of the blocks' projections; `models.packed` stores and runs them. The
embeddings, and so a tied head, are always rounded to int8 row by row: in 4 bits they alone would increase the
perplexity of the bundled model (9.30 to 9.40) more than 4 bits by GPTQ of everything else (to 9.37).
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from slimline.tasks.data.packing import calibration_windows
from slimline.tasks.models.checkpoint import CheckpointError, is_dynamic_int8, read_gpt2_config
from slimline.tasks.models.loading import load_gpt2
from slimline.tasks.models.packed import PACKED_FILE, PackedMatrix, is_packed, pack, round_rows
from slimline.tasks.specs import WeightOnly

_WINDOW = 512  # tokens; no longer than the model's positions


def quantize_weights(source: Path, target: Path, spec: WeightOnly, slice_dir: Path) -> dict[str, Any]:
    """Write `packed.safetensors`, `config.json` and `tokenizer.json` for the checkpoint `source` to `target`.

    GPTQ (arXiv:2210.17323) is calibrated on windows of the slice's training split; rounding to nearest needs none.

    Returns:
        Notes for provenance: matmuls; int8_matmuls (0, as products are in floating point); packed_matmuls, weight_bits,
        head_bits, bytes_per_weight (of the blocks' projections with their scales).

    Raises:
        CheckpointError: the checkpoint is damaged or quantized.
        ValueError: the slice is too small for one window, or a weight too large for an fp16 scale.
    """
    _refuse_unsupported(source)
    config = read_gpt2_config(source)
    model = load_gpt2(source)
    vectors = {name: value for name, value in model.named_parameters() if value.ndim == 1}
    tables = _round_tables(model, config["tie_word_embeddings"])
    _swap_projections(model.transformer)
    weights = config["n_layer"] * (4 * config["n_embd"] ** 2 + 2 * config["n_embd"] * config["n_inner"])
    windows = _windows(spec, source, slice_dir, config["n_positions"]) if spec.method == "gptq" else []
    projections = _quantize(model, source, spec, windows)
    target.mkdir(parents=True, exist_ok=True)
    _save(tables | projections, vectors, target / PACKED_FILE)
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(source / name, target / name)
    return _notes(projections, weights, spec)


def _refuse_unsupported(source: Path) -> None:
    for is_quantized, step in ((is_dynamic_int8, "dynamic-int8"), (is_packed, "weight-only")):
        if is_quantized(source):
            raise CheckpointError(f"{source}: quantized by {step}; allowed for weight-only: fp32 weights")
    if not (source / "tokenizer.json").is_file():
        raise CheckpointError(f"{source}: tokenizer.json is missing")


def _round_tables(model: GPT2LMHeadModel, tied: bool) -> dict[str, PackedMatrix]:
    """Round the model's embeddings and an untied head; returns them in int8."""
    names = ["transformer.wte", "transformer.wpe", *([] if tied else ["lm_head"])]
    tables = {}
    for name in names:
        weight = model.get_submodule(name).weight.data
        tables[name] = round_rows(weight)
        weight.copy_(tables[name].unpack(weight.shape[1], torch.float32))
    return tables


def _swap_projections(module: torch.nn.Module) -> None:
    """Replace every `Conv1D`, which neural-compressor supports only in some cases, by a `Linear`."""
    for name, child in list(module.named_children()):
        if isinstance(child, Conv1D):
            inputs, outputs = child.weight.shape
            linear = torch.nn.Linear(inputs, outputs, device="meta")
            linear.weight = torch.nn.Parameter(child.weight.data.T.contiguous())
            linear.bias = child.bias
            setattr(module, name, linear)
        else:
            _swap_projections(child)


def _windows(spec: WeightOnly, source: Path, slice_dir: Path, n_positions: int) -> list[torch.Tensor]:
    """Windows for the calibration of GPTQ: token ids, [1, window] each."""
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    field = "weight-only.calibration_samples"
    windows = calibration_windows(slice_dir, tokenizer, spec.calibration_samples, min(_WINDOW, n_positions), field)
    return [torch.from_numpy(window)[None].long() for window in windows]


def _quantize(
    model: GPT2LMHeadModel, source: Path, spec: WeightOnly, windows: list[torch.Tensor]
) -> dict[str, PackedMatrix]:
    """All projections of the blocks, packed, by module name."""
    settings: dict[str, Any] = {"bits": spec.bits, "group_size": spec.group_size, "use_layer_wise": False}
    with _neural_compressor() as compressor, torch.no_grad():
        if spec.method == "rtn":
            config = compressor.RTNConfig(**settings)
        else:
            # With larger blocks, the scales of a group would not include the corrections for the errors of the groups
            # on its left.
            config = compressor.GPTQConfig(**settings, block_size=spec.group_size, model_path=str(source))
        prepared = compressor.prepare(model, config)
        for window in windows:
            prepared(window)
        converted = compressor.convert(prepared)
    return {
        name: _pack_module(module, spec)
        for name, module in converted.named_modules()
        if hasattr(module, "unpack_tensor")
    }


@contextmanager
def _neural_compressor() -> Iterator[Any]:
    """neural-compressor's quantization module, without its log and its directory in the current directory."""
    from neural_compressor.common import set_workspace

    logging.getLogger("neural_compressor").setLevel(logging.ERROR)
    with TemporaryDirectory() as scratch:
        set_workspace(scratch)
        from neural_compressor.torch import quantization

        yield quantization


def _pack_module(module: Any, spec: WeightOnly) -> PackedMatrix:
    unpacked = module.unpack()
    scales = unpacked["scales"]
    if not torch.isfinite(scales).all():
        raise ValueError(f"a group's scale is too large; allowed: up to fp16's {torch.finfo(scales.dtype).max:g}")
    signed = unpacked["int_weight"] - 2 ** (spec.bits - 1)
    return pack(signed, scales, spec.bits, spec.group_size)


def _save(matrices: dict[str, PackedMatrix], vectors: dict[str, torch.Tensor], path: Path) -> None:
    tensors = {name: value.detach().to(torch.float16) for name, value in vectors.items()}
    for name, matrix in matrices.items():
        tensors |= {part: value.contiguous() for part, value in matrix.tensors(name).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def _notes(projections: dict[str, PackedMatrix], weights: int, spec: WeightOnly) -> dict[str, Any]:
    stored = sum(matrix.weight.nbytes + matrix.scales.nbytes for matrix in projections.values())
    return {
        "matmuls": len(projections) + 1,
        "int8_matmuls": 0,
        "packed_matmuls": len(projections) + 1,
        "weight_bits": spec.bits,
        "head_bits": 8,
        "bytes_per_weight": stored / weights,
    }
