"""Model directories in and out, and the resumable checkpoints of a training that may be killed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from transformers import GPT2LMHeadModel

from tasks.engines.checkpoint import check_weights, read_gpt2_config

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
_COMPLETE = "complete"


def load_gpt2(directory: Path) -> GPT2LMHeadModel:
    """A GPT-2 checkpoint directory as an fp32 model.

    Raises ValueError for another architecture, and for weights that are not this configuration's (quantized,
    truncated): transformers would fill the gaps with random numbers.
    """
    read_gpt2_config(directory)
    check_weights(directory)
    model, found = GPT2LMHeadModel.from_pretrained(
        directory,
        dtype=torch.float32,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused below, by name
    )
    wrong = sorted(str(key) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in found[kind])
    if wrong:
        raise ValueError(f"{directory}/model.safetensors: not the weights config.json describes: {', '.join(wrong)}")
    return model


def save_gpt2(model: GPT2LMHeadModel, tokenizer_from: Path, target: Path) -> None:
    """Write `target` as a standard checkpoint: config, fp32 safetensors, and `tokenizer_from`'s tokenizer files."""
    model.save_pretrained(target)
    for name in _TOKENIZER_FILES:
        if (tokenizer_from / name).is_file():
            shutil.copyfile(tokenizer_from / name, target / name)


def seal(checkpoint: Path) -> None:
    """Mark a Trainer checkpoint as whole, once every byte of it is on the disk."""
    for path in sorted(checkpoint.iterdir()):
        _sync(path)
    (checkpoint / _COMPLETE).touch()
    _sync(checkpoint)


def last_checkpoint(work_dir: Path) -> Path | None:
    """The newest sealed `checkpoint-<step>` of `work_dir`; what a killed process left unfinished is removed."""
    sealed = []
    for path in work_dir.glob("checkpoint-*"):
        if (path / _COMPLETE).is_file():
            sealed.append(path)
        else:
            shutil.rmtree(path)
    return max(sealed, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
