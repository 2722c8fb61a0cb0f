"""Checkpoints that others made, loaded by transformers' own class for their architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from slimline.tasks.models.checkpoint import CheckpointError
from slimline.tasks.models.weight_files import shown

_PROBLEMS = {
    "missing_keys": "tensors that config.json describes are missing",
    "unexpected_keys": "tensors that config.json does not describe",
    "mismatched_keys": "tensors of other shapes than config.json describes",
}


def load_external(directory: Path, dtype: torch.dtype) -> Any:
    """The model, in `dtype` and in evaluation mode; no code of the directory is run, and no pickle opened.

    Raises:
        CheckpointError: transformers cannot load it, or would fill tensors with random numbers, or leave some out.
    """
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # of transformers, which has no class of its own
        raise CheckpointError(f"{directory}: transformers cannot load it: {' '.join(str(error).split())}") from error
    for name, problem in _PROBLEMS.items():
        if found := info.get(name):
            raise CheckpointError(f"{directory}: {problem}: {shown(map(str, found))}")
    return model.eval()
