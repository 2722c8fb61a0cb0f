"""A GPT-2 of transformers from a local directory, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from tasks.engines.checkpoint import CheckpointError, check_weights, read_gpt2_config


def load_fp32(directory: Path) -> GPT2LMHeadModel:
    """`load_floats` in fp32."""
    return load_floats(directory, torch.float32)


def load_floats(directory: Path, dtype: torch.dtype) -> GPT2LMHeadModel:
    """The checkpoint in `directory`, held and computed in `dtype`, in evaluation mode; the network is never asked.

    Raises:
        CheckpointError: it is no GPT-2, damaged, or a tensor is missing or of another shape (transformers would fill in
            random numbers).
    """
    read_gpt2_config(directory)
    check_weights(directory)
    model, report = AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused below, by name
    )
    for what in ("missing", "mismatched"):
        if found := report[f"{what}_keys"]:
            raise CheckpointError(f"{directory}: tensors are {what}: {', '.join(sorted(map(str, found)))}")
    return model
