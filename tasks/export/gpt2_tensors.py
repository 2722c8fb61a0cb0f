"""Code that all exporters of GPT-2 checkpoints share: checks of the configuration, and reading of tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from slimline.tasks.models.checkpoint import CheckpointError, Gpt2Config, gpt2_shapes, is_dynamic_int8

_ALLOWED: dict[str, object] = {
    "activation_function": "gelu_new",
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def refuse_unsupported(directory: Path, config: Gpt2Config, step: str) -> None:
    """Refuse a checkpoint that `step` cannot export.

    Raises:
        CheckpointError: it is quantized, a field of its configuration is not supported, or it has no tokenizer.
    """
    if is_dynamic_int8(directory):
        raise CheckpointError(f"{directory}: quantized by dynamic-int8; allowed for {step}: fp32 weights")
    for field, allowed in _ALLOWED.items():
        found = config[field]  # type: ignore[literal-required]
        if found != allowed:
            raise CheckpointError(f"{directory}/config.json: {field} is {found!r}; {step} allows {allowed!r}")
    if not (directory / "tokenizer.json").is_file():
        raise CheckpointError(f"{directory}: tokenizer.json is missing")


class Gpt2Tensors:
    """The checkpoint's tensors by GPT-2's own names, each checked for shape and type when it is read."""

    def __init__(self, path: Path, config: Gpt2Config) -> None:
        self._path = path
        self._file = _open(path)
        self._names = set(self._file.keys())
        self._shapes = gpt2_shapes(config)

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor `name`, for example "h.0.attn.c_attn.weight" (inputs x outputs).

        Raises:
            CheckpointError: it is missing, or its type or shape is wrong.
        """
        stored = next((key for key in (f"transformer.{name}", name) if key in self._names), None)
        if stored is None:
            raise CheckpointError(f"{self._path}: tensor {name} is missing")
        tensor = self._file.get_slice(stored)
        shape = self._shapes[name]
        if tensor.get_dtype() != "F32" or tuple(tensor.get_shape()) != shape:
            raise CheckpointError(
                f"{self._path}: tensor {stored} is {tensor.get_dtype()} {tensor.get_shape()}; "
                f"allowed: F32 {list(shape)}"
            )
        values: NDArray[np.float32] = self._file.get_tensor(stored)
        return values


def _open(path: Path) -> Any:
    """The safetensors file as Any, because its methods have no annotations."""
    return safe_open(path, framework="numpy")
