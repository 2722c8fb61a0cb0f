"""Size of a model: bytes on disk, and the number of parameters, with and without zeros."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import safe_open

from slimline.tasks.models.checkpoint import (
    ATTENTION_MASKS,
    QUANTIZATION,
    check_weights,
    read_gpt2_config,
    row_scales,
)
from slimline.tasks.models.external import LAYOUT

_GZIP_LEVEL = 6  # the gzip command's default
_GZIP_WRAPPER = 31  # zlib.h: window of 2^15 with a gzip header and trailer
_CHUNK_BYTES = 1 << 20
_CHUNK_ELEMENTS = 1 << 22
_HEAD = "lm_head.weight"
_MB = 1e6
_SPARED_BYTES = 2  # of a weight in half precision in place of fp32


class DiskSize(NamedTuple):
    """Sizes in 10^6 bytes.

    Attributes:
        raw_mb: Of all files.
        gzip_mb: Of all files when each is compressed by gzip.
        half_mb: Of all files, with a checkpoint's fp32 weights in half precision; None if it has none.
    """

    raw_mb: float
    gzip_mb: float
    half_mb: float | None = None


class Parameters(NamedTuple):
    """Number of weights, and of weights that are not zero."""

    total: int
    nonzero: int


def disk_size(directory: Path) -> DiskSize:
    """Size of all files of an artifact, which has only files that inference needs, and what slimline notes of it.

    Raises:
        ValueError: the directory has no files.
    """
    files = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != LAYOUT]
    if not files:
        raise ValueError(f"{directory} has no files; allowed: at least one")
    raw = sum(path.stat().st_size for path in files)
    spared = sum(_fp32_elements(path) for path in files if path.suffix == ".safetensors") * _SPARED_BYTES
    return DiskSize(raw / _MB, sum(map(_gzip_bytes, files)) / _MB, (raw - spared) / _MB if spared else None)


def _fp32_elements(path: Path) -> int:
    with safe_open(path, framework="numpy") as file:
        slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118 - not a mapping: it has no iterator
        return sum(math.prod(one.get_shape()) for one in slices if one.get_dtype() == "F32")


def _gzip_bytes(path: Path) -> int:
    compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WRAPPER)
    size = 0
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            size += len(compressor.compress(piece))
    return size + len(compressor.flush())


def count_parameters(model_dir: Path) -> Parameters:
    """Count the weights of a GPT-2 checkpoint: the elements of all stored tensors, read in pieces.

    A tied head is not counted again, even if the file has a copy of it; an int8 head is untied and counts. A quantized
    weight is zero where it equals its zero point, which no weight of an int8 embedding does: that is a fraction. Scales
    and zero points are not weights.

    Raises:
        CheckpointError: the directory has no whole GPT-2 checkpoint.
    """
    tied = read_gpt2_config(model_dir)["tie_word_embeddings"]
    total = nonzero = 0
    with safe_open(check_weights(model_dir), framework="numpy") as file:
        zeros = _zero_points(model_dir / QUANTIZATION, file)
        scales = {part for name in zeros for part in row_scales(name.removesuffix(".weight"))}
        for name in file.keys():  # noqa: SIM118 - not a mapping: it has no iterator
            if name.endswith(ATTENTION_MASKS) or (tied and name == _HEAD) or name in scales:
                continue
            total += math.prod(file.get_slice(name).get_shape())
            nonzero += _count_nonzero(file, name, zeros.get(name))
    return Parameters(total, nonzero)


def _zero_points(path: Path, file: Any) -> dict[str, np.ndarray]:
    """Zero points of quantized weights, [rows, 1], by tensor name; empty for a checkpoint that is not quantized."""
    modules = json.loads(path.read_text(encoding="utf-8"))["modules"] if path.is_file() else {}
    found = {}
    for name, module in modules.items():
        rows = file.get_slice(f"{name}.weight").get_shape()[0]
        zeros = module["zero_point"] if "scale" in module else file.get_tensor(row_scales(name)[1])
        found[f"{name}.weight"] = np.broadcast_to(zeros, rows)[:, None]
    return found


def _count_nonzero(file: Any, name: str, zeros: np.ndarray | None) -> int:
    count = row = 0
    for piece in _pieces(file, name):
        count += int(np.count_nonzero(piece != (0 if zeros is None else zeros[row : row + len(piece)])))
        row += len(piece)
    return count


def _pieces(file: Any, name: str) -> Iterator[np.ndarray]:
    """A tensor in groups of rows; a number is a row of its own."""
    tensor = file.get_slice(name)
    shape = tensor.get_shape()
    if not shape:
        yield np.atleast_1d(file.get_tensor(name))
        return
    rows = max(1, _CHUNK_ELEMENTS // max(1, math.prod(shape[1:])))
    for begin in range(0, shape[0], rows):
        yield tensor[begin : min(begin + rows, shape[0])]
