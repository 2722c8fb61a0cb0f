"""An fp32 GPT-2 of transformers from a local directory, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from tasks.engines.checkpoint import CheckpointError, check_weights, read_gpt2_config


def load_fp32(directory: Path) -> GPT2LMHeadModel:
    """The model in `directory`, in evaluation mode; the network is never asked.

    Raises:
        CheckpointError: it is no GPT-2, damaged, or a tensor is missing (transformers would fill in random numbers).
    """
    read_gpt2_config(directory)
    check_weights(directory)
    model, report = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    if report["missing_keys"]:
        raise CheckpointError(f"{directory}: tensors are missing: {', '.join(sorted(report['missing_keys']))}")
    return model
