"""Checks of the files and configuration of a GPT-2 checkpoint, before any tensor is read.

This module reads only JSON and safetensors headers, so that it does not import torch.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, TypeAdapter, ValidationError
from typing_extensions import TypedDict

WEIGHTS = "model.safetensors"
QUANTIZATION = "quantization.json"
ATTENTION_MASKS = (".attn.bias", ".attn.masked_bias")  # constants that older versions of transformers stored
_HEADER_LIMIT = 100_000_000  # bytes; the safetensors format's own bound


class CheckpointError(ValueError):
    """A directory is not a valid GPT-2 checkpoint; the message has the file or field, its value and what is allowed."""


class Gpt2Config(TypedDict):
    """The fields of a GPT-2 `config.json` that decide what its graph computes (transformers' names)."""

    model_type: Literal["gpt2"]
    vocab_size: PositiveInt
    n_positions: PositiveInt
    n_embd: PositiveInt
    n_layer: PositiveInt
    n_head: PositiveInt
    n_inner: PositiveInt
    layer_norm_epsilon: Annotated[NonNegativeFloat, Field(lt=1.0)]
    activation_function: str
    scale_attn_weights: bool
    scale_attn_by_inverse_layer_idx: bool
    add_cross_attention: bool
    tie_word_embeddings: bool


# Older checkpoints of transformers lack these fields if they have these values.
_DEFAULTS = {
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
_ADAPTER = TypeAdapter(Gpt2Config)


def read_gpt2_config(directory: Path) -> Gpt2Config:
    """The configuration of the checkpoint or export in `directory`, with transformers' defaults for missing fields.

    Raises:
        CheckpointError: `config.json` is missing, not a JSON object, not a GPT-2's, or a field is out of bounds.
    """
    raw = _read_object(directory / "config.json")
    if raw.get("model_type") != "gpt2":
        raise CheckpointError(f"{directory}: model_type is {raw.get('model_type')!r}; allowed: 'gpt2'")
    filled = _DEFAULTS | {name: value for name, value in raw.items() if name in Gpt2Config.__annotations__}
    if filled.get("n_inner") is None and isinstance(filled.get("n_embd"), int):
        filled["n_inner"] = 4 * raw["n_embd"]
    try:
        config = _ADAPTER.validate_python(filled, strict=True)
    except ValidationError as error:
        raise CheckpointError(f"{directory}/config.json: {_first_problem(error)}") from None
    if config["n_embd"] % config["n_head"]:
        raise CheckpointError(
            f"{directory}/config.json: n_head is {config['n_head']}; allowed: a divisor of n_embd = {config['n_embd']}"
        )
    return config


def check_weights(directory: Path) -> Path:
    """The path of the checkpoint's `model.safetensors`, after a check that it is complete.

    Raises:
        CheckpointError: the file is missing, its header is unreadable, or its size is not that of the header.
    """
    path = directory / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{directory}: {WEIGHTS} is missing; other weight files (.bin, shards) are not read")
    size, expected = path.stat().st_size, _expected_size(path)
    if size != expected:
        raise CheckpointError(
            f"{path}: {size} bytes, but its header describes {expected}; the file is truncated or damaged"
        )
    return path


def is_dynamic_int8(directory: Path) -> bool:
    """Whether the checkpoint holds weights that were quantized by `dynamic-int8`."""
    return (directory / QUANTIZATION).is_file()


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent}: {path.name} is missing") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: a JSON {type(value).__name__}; allowed: an object")
    return value


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return f"{name} is missing"
    return f"{name} is {problem['input']!r}; {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _expected_size(path: Path) -> int:
    """Bytes of a complete file in the safetensors format: 8 for the header's length, the header, and the tensors."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= _HEADER_LIMIT else b""
    try:
        tensors = json.loads(header)
        ends = [tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise CheckpointError(f"{path}: its safetensors header is unreadable; truncated or damaged") from None
    return 8 + length + max(ends, default=0)


def copy_config_and_tokenizer(source: Path, target: Path) -> None:
    """Copy configuration and tokenizer, the latter without indentation, as the size of artifacts is measured."""
    shutil.copyfile(source / "config.json", target / "config.json")
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    compact = json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))
    (target / "tokenizer.json").write_text(compact, encoding="utf-8")
