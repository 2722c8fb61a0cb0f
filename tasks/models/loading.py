"""Loading and saving of GPT-2 checkpoints, of slimline's own and of those that others have saved.

What a configuration or file says in other words is brought to the one form that every step reads, and reported; what
would change the function of the model, or leave weights out, is refused.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.activations import ACT2FN
from transformers.utils import logging as transformers_logging

from slimline.tasks.models.checkpoint import (
    CheckpointError,
    Gpt2Config,
    check_gpt2_config,
    gpt2_shapes,
    read_object,
)
from slimline.tasks.models.weight_files import Tensors, gpt2_names, read_tensors, shown

transformers_logging.disable_progress_bar()

_HEAD, _TABLE = "lm_head.weight", "transformer.wte.weight"
# All three are GPT-2's approximation of GELU by tanh (transformers.activations).
_TANH_GELU = ("gelu_pytorch_tanh", "gelu_fast", "gelu_new")
_DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


class Imported(NamedTuple):
    """A model, and what of it was written in other words, a sentence each."""

    model: GPT2LMHeadModel
    changes: list[str]


def load_gpt2(directory: Path, dtype: torch.dtype = torch.float32) -> GPT2LMHeadModel:
    """The model of `import_gpt2`, for those that know what is in the directory."""
    return import_gpt2(directory, dtype).model


def import_gpt2(directory: Path, dtype: torch.dtype = torch.float32) -> Imported:
    """The GPT-2 in `directory`, in `dtype` and in evaluation mode, with transformers' own names in its configuration.

    Raises:
        CheckpointError: it is no GPT-2, is quantized or damaged, or lacks tensors or has others (transformers would use
            random numbers); the message names the file, and the field or tensor.
    """
    changes: list[str] = []
    raw = _native_fields(directory, changes)
    config = check_gpt2_config(directory, raw)
    if config["add_cross_attention"]:
        raise CheckpointError(f"{directory}/config.json: add_cross_attention is true; allowed: false")
    if (activation := config["activation_function"]) not in ACT2FN:
        raise CheckpointError(
            f"{directory}/config.json: activation_function is {activation!r}; allowed: {', '.join(ACT2FN)}"
        )
    path, found = read_tensors(directory)
    tensors, prefix = gpt2_names(path, found)
    if prefix:
        changes.append(f"the names of the tensors began with {prefix!r}")
    tensors = _as_floats(path, tensors, dtype)
    _settle_head(path, tensors, config, changes)
    _refuse_other_tensors(path, tensors, config)
    model = _empty_model(config, {**_dropouts(directory, raw), **_special_tokens(raw, config, changes)})
    model.load_state_dict(tensors, strict=False, assign=True)  # a tied head is in the embedding's place
    model.tie_weights()
    _fold_layer_scale(model, config, changes)
    return Imported(model.eval(), changes)


def _native_fields(directory: Path, changes: list[str]) -> dict[str, Any]:
    """The configuration with GPT-2's own names of its fields."""
    path = directory / "config.json"
    raw = read_object(path)
    if raw.get("quantization_config"):
        method = raw["quantization_config"]
        name = method.get("quant_method", "some method") if isinstance(method, dict) else method
        raise CheckpointError(
            f"{path}: quantization_config: the weights are quantized by {name}; dequantize them first"
        )
    if raw.get("model_type") is None and raw.get("architectures") == ["GPT2LMHeadModel"]:
        raw["model_type"] = "gpt2"
        changes.append("model_type is taken from architectures")
    for alias, name in GPT2Config.attribute_map.items():
        if alias in raw:
            if raw.get(name, raw[alias]) != raw[alias]:
                raise CheckpointError(
                    f"{path}: {alias} is {raw[alias]!r} and {name} is {raw[name]!r}; they are the same field"
                )
            raw[name] = raw.pop(alias)
    if raw.get("activation_function") in _TANH_GELU:
        raw["activation_function"] = "gelu_new"
    return raw


def _as_floats(path: Path, tensors: Tensors, dtype: torch.dtype) -> Tensors:
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"{path}: {name} is {tensor.dtype}; allowed: floating point. Dequantize it first")
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def _settle_head(path: Path, tensors: Tensors, config: Gpt2Config, changes: list[str]) -> None:
    """Make `tie_word_embeddings` say what the file has: a head of its own, or the embedding."""
    head, table = tensors.get(_HEAD), tensors.get(_TABLE)
    if head is None and not config["tie_word_embeddings"]:
        raise CheckpointError(f"{path}: {_HEAD} is missing, but config.json says tie_word_embeddings: false")
    if head is None or table is None or not config["tie_word_embeddings"]:
        return
    if torch.equal(head, table):
        del tensors[_HEAD]
    else:
        config["tie_word_embeddings"] = False
        changes.append(f"{_HEAD} differs from {_TABLE}: tie_word_embeddings is false")


def _dropouts(directory: Path, raw: dict[str, Any]) -> dict[str, float]:
    shares = {name: raw[name] for name in _DROPOUTS if name in raw}
    for name, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
            raise CheckpointError(f"{directory}/config.json: {name} is {share!r}; allowed: a number from 0 to below 1")
    return shares


def _special_tokens(raw: dict[str, Any], config: Gpt2Config, changes: list[str]) -> dict[str, int | None]:
    """The special tokens that the vocabulary has."""
    fields: dict[str, int | None] = {}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = raw.get(name)
        is_token = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < config["vocab_size"]
        fields[name] = value if is_token else None
        if value is not None and not is_token:
            changes.append(f"{name} {value!r} is left out: allowed is one token below {config['vocab_size']}")
    return fields


def _empty_model(config: Gpt2Config, others: dict[str, Any]) -> GPT2LMHeadModel:
    fields = {name: value for name, value in config.items() if name != "model_type"}
    fields["scale_attn_by_inverse_layer_idx"] = False  # becomes a part of the weights
    if config["n_inner"] == 4 * config["n_embd"]:
        fields["n_inner"] = None  # as transformers writes it
    with torch.device("meta"):
        return GPT2LMHeadModel(GPT2Config(**fields, **others))


def _refuse_other_tensors(path: Path, tensors: Tensors, config: Gpt2Config) -> None:
    """Refuse tensors that are not exactly those of the configuration."""
    if config["n_layer"] > len(tensors):
        raise CheckpointError(f"{path}: {len(tensors)} tensors; too few for n_layer {config['n_layer']} of config.json")
    shapes = {name if name == _HEAD else f"transformer.{name}": shape for name, shape in gpt2_shapes(config).items()}
    if missing := shapes.keys() - tensors.keys():
        raise CheckpointError(f"{path}: tensors that config.json describes are missing: {shown(missing)}")
    if unknown := tensors.keys() - shapes.keys():
        raise CheckpointError(f"{path}: tensors that a GPT-2 of config.json does not have: {shown(unknown)}")
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise CheckpointError(f"{path}: {name} is {list(tensors[name].shape)}; config.json allows {list(shape)}")


def _fold_layer_scale(model: GPT2LMHeadModel, config: Gpt2Config, changes: list[str]) -> None:
    """Multiply each layer's queries by 1 / (its index + 1), as GPT2Attention does to their products with keys."""
    if not config["scale_attn_by_inverse_layer_idx"]:
        return
    width = config["n_embd"]
    with torch.no_grad():
        for index, block in enumerate(model.transformer.h):
            block.attn.c_attn.weight[:, :width] /= index + 1
            block.attn.c_attn.bias[:width] /= index + 1
    changes.append("scale_attn_by_inverse_layer_idx has become a part of the weights")


def save_gpt2(model: GPT2LMHeadModel, tokenizer_from: Path, target: Path) -> None:
    """Write a standard checkpoint to `target`: configuration, weights, and the tokenizer files of `tokenizer_from`."""
    model.save_pretrained(target)
    for name in _TOKENIZER_FILES:
        if (tokenizer_from / name).is_file():
            shutil.copyfile(tokenizer_from / name, target / name)
