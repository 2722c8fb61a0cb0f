"""Loading and saving of transformers' GPT-2 checkpoints; incomplete ones are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from slimline.tasks.models.checkpoint import CheckpointError, check_weights, read_gpt2_config

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


def load_fp32(directory: Path) -> GPT2LMHeadModel:
    """`load_floats` in fp32."""
    return load_floats(directory, torch.float32)


def load_floats(directory: Path, dtype: torch.dtype) -> GPT2LMHeadModel:
    """The checkpoint in `directory` as a model in `dtype` and in evaluation mode; the network is not used.

    Raises:
        CheckpointError: it is not a GPT-2, is damaged, or a tensor is missing or has another shape (transformers would
            use random numbers).
    """
    read_gpt2_config(directory)
    check_weights(directory)
    model, report = AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # refused below, with their names
    )
    for what in ("missing", "mismatched"):
        if found := report[f"{what}_keys"]:
            raise CheckpointError(f"{directory}: tensors are {what}: {', '.join(sorted(map(str, found)))}")
    return model


def load_gpt2(directory: Path) -> GPT2LMHeadModel:
    """The GPT-2 checkpoint in `directory` as an fp32 model.

    Raises:
        CheckpointError: it is not a GPT-2 or is damaged.
        ValueError: the tensors are not those of the configuration (transformers would use random numbers).
    """
    read_gpt2_config(directory)
    check_weights(directory)
    model, found = GPT2LMHeadModel.from_pretrained(
        directory,
        dtype=torch.float32,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # refused below, with their names
    )
    wrong = sorted(str(key) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in found[kind])
    if wrong:
        raise ValueError(f"{directory}/model.safetensors: tensors do not match config.json: {', '.join(wrong)}")
    return model


def save_gpt2(model: GPT2LMHeadModel, tokenizer_from: Path, target: Path) -> None:
    """Write a standard checkpoint to `target`: configuration, weights, and the tokenizer files of `tokenizer_from`."""
    model.save_pretrained(target)
    for name in _TOKENIZER_FILES:
        if (tokenizer_from / name).is_file():
            shutil.copyfile(tokenizer_from / name, target / name)
