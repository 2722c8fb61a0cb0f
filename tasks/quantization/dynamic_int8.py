"""Post-training dynamic int8 as published: torch's quantization of `nn.Linear` only.

GPT-2's projections are `Conv1D`, which torch's quantization does not support, so that it converts only the head. The
head is then no longer tied to the embedding and has one scale for the whole matrix; everything else stays fp32. This
reproduces the published result; `onnx_int8` quantizes all matrices.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.ao.nn.quantized.dynamic import Linear as Int8Linear
from transformers import GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from slimline.tasks.models.int8_loading import ignore_deprecation, save_quantized
from slimline.tasks.models.loading import load_gpt2


def quantize_linear_only(model_dir: Path, target: Path) -> dict[str, Any]:
    """Quantize the checkpoint `model_dir` into `target`.

    Weights in int8 are in `model.safetensors`, their scales in `quantization.json`. All other files are copied; in
    `config.json` only `tie_word_embeddings` changes, to false.

    Returns:
        Notes for provenance: matmuls (projections and head), int8_matmuls.

    Raises:
        CheckpointError: the checkpoint is not a GPT-2 or is damaged.
    """
    model = load_gpt2(model_dir)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    modules = {}
    for name, weight in _quantize_weights(model).items():
        tensors[f"{name}.weight"] = weight.int_repr()
        modules[name] = {"scale": weight.q_scale(), "zero_point": weight.q_zero_point()}
    save_quantized(model_dir, tensors, modules, target)
    matmuls = sum(isinstance(module, Conv1D | torch.nn.Linear) for module in model.modules())
    return {"matmuls": matmuls, "int8_matmuls": len(modules)}


def _quantize_weights(model: GPT2LMHeadModel) -> dict[str, torch.Tensor]:
    """The int8 weights from torch's dynamic quantization, by module name."""
    with ignore_deprecation():
        quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    return {name: module.weight() for name, module in quantized.named_modules() if isinstance(module, Int8Linear)}
