"""Checks of the files and configuration of a GPT-2 checkpoint, before any tensor is read.

This module reads only JSON and safetensors headers, so that it does not import torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveInt, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from typing_extensions import TypedDict

WEIGHTS = "model.safetensors"
QUANTIZATION = "quantization.json"
_FLOATS = ("F16", "F32", "F64")
ATTENTION_MASKS = (".attn.bias", ".attn.masked_bias")  # constants that older versions of transformers stored


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
    return check_gpt2_config(directory, read_object(directory / "config.json"))


def check_gpt2_config(directory: Path, raw: Mapping[str, Any]) -> Gpt2Config:
    """The content of the `config.json` in `directory`, checked, with transformers' defaults for missing fields.

    Raises:
        CheckpointError: it is not a GPT-2's, or a field is out of bounds.
    """
    path = directory / "config.json"
    if raw.get("model_type") is None:
        raise CheckpointError(f'{path}: model_type is missing; add "model_type": "gpt2" if it is a GPT-2')
    if raw["model_type"] != "gpt2":
        raise CheckpointError(f"{path}: model_type is {raw['model_type']!r}; allowed: 'gpt2'")
    filled = _DEFAULTS | {name: value for name, value in raw.items() if name in Gpt2Config.__annotations__}
    if filled.get("n_inner") is None and isinstance(filled.get("n_embd"), int):
        filled["n_inner"] = 4 * raw["n_embd"]
    try:
        config = _ADAPTER.validate_python(filled, strict=True)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {_first_problem(error)}") from None
    if config["n_embd"] % config["n_head"]:
        raise CheckpointError(
            f"{path}: n_head is {config['n_head']}; allowed: a divisor of n_embd = {config['n_embd']}"
        )
    return config


def gpt2_shapes(config: Gpt2Config) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a GPT-2, by GPT-2's own names; the head's only if it is not the embedding."""
    width, inner = config["n_embd"], config["n_inner"]
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (config["vocab_size"], width),
        "wpe.weight": (config["n_positions"], width),
        "ln_f.weight": (width,),
        "ln_f.bias": (width,),
    }
    for layer in range(config["n_layer"]):
        block = {
            **{f"{norm}.{kind}": (width,) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")},
            **_projection("attn.c_attn", width, 3 * width),
            **_projection("attn.c_proj", width, width),
            **_projection("mlp.c_fc", width, inner),
            **_projection("mlp.c_proj", inner, width),
        }
        shapes |= {f"h.{layer}.{name}": shape for name, shape in block.items()}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], width)
    return shapes


def _projection(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (inputs, outputs), f"{name}.bias": (outputs,)}


def check_weights(directory: Path) -> Path:
    """The path of the checkpoint's `model.safetensors`, after a check that it is complete.

    Raises:
        CheckpointError: the file is missing, or it is not what its header describes.
    """
    path = directory / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{directory}: {WEIGHTS} is missing")
    try:
        safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: truncated or damaged ({error})") from None
    return path


def refuse_not_finite(where: str, tensors: Iterable[tuple[str, NDArray[Any]]]) -> None:
    """Refuse weights that are not numbers.

    Args:
        where: What the tensors are of, for the message.
        tensors: Their names and values.

    Raises:
        CheckpointError: one has NaN or infinite values; the message has its name.
    """
    for name, values in tensors:
        bad = values.size - int(np.isfinite(values).sum()) if np.issubdtype(values.dtype, np.floating) else 0
        if bad:
            raise CheckpointError(f"{where}: {name} is NaN or infinite at {bad} of its {values.size} places")


def stored_tensors(directory: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """The tensors of every safetensors file of an artifact, one after the other, of the types that numpy has."""
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - it cannot be iterated
                if file.get_slice(name).get_dtype() in _FLOATS:
                    yield name, file.get_tensor(name)


def is_dynamic_int8(directory: Path) -> bool:
    """Whether the checkpoint holds weights that were quantized by `dynamic-int8`, or as that does by ITREX."""
    return (directory / QUANTIZATION).is_file()


def row_scales(module: str) -> tuple[str, str]:
    """Names of the tensors with the scales and zero points of a quantized module that has one for each row."""
    return f"{module}.scales", f"{module}.zero_points"


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: the file is missing, or is not one.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent}: {path.name} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
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


def copy_config_and_tokenizer(source: Path, target: Path) -> None:
    """Copy configuration and tokenizer, the latter without indentation, as the size of artifacts is measured."""
    shutil.copyfile(source / "config.json", target / "config.json")
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    compact = json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))
    (target / "tokenizer.json").write_text(compact, encoding="utf-8")
