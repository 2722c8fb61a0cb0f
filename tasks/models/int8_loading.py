"""Loading of models from torch's dynamic quantization: int8 weights in safetensors, their scales in JSON."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.ao.nn.quantized.dynamic import Linear as Int8Linear
from transformers import GPT2Config, GPT2LMHeadModel

from slimline.tasks.models.checkpoint import QUANTIZATION, CheckpointError, check_weights, read_gpt2_config

METHOD = "torch-dynamic-int8"


def load_quantized(directory: Path) -> GPT2LMHeadModel:
    """The model that `quantize_linear_only` wrote, in evaluation mode.

    Raises:
        CheckpointError: the directory has no such model, is damaged, or lacks tensors.
    """
    read_gpt2_config(directory)
    tensors = load_file(check_weights(directory))
    modules = _read_modules(directory / QUANTIZATION)
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config.from_pretrained(directory, local_files_only=True))
    int8 = {name: tensors.pop(f"{name}.weight", None) for name in modules}
    missing = set(model.load_state_dict(tensors, strict=False, assign=True).missing_keys)
    missing -= {f"{name}.weight" for name, weight in int8.items() if weight is not None}
    if missing:
        raise CheckpointError(f"{directory}: tensors are missing: {', '.join(sorted(missing))}")
    for name, quantization in modules.items():
        if int8[name].dtype != torch.int8:
            raise CheckpointError(f"{directory}: {name}.weight is {int8[name].dtype}; allowed: {torch.int8}")
        model.set_submodule(name, _int8_linear(int8[name], **quantization))
    return model.eval()


def _int8_linear(weight: torch.Tensor, scale: float, zero_point: int) -> Int8Linear:
    outputs, inputs = weight.shape
    with ignore_deprecation():
        linear = Int8Linear(inputs, outputs, bias_=False)
        linear.set_weight_bias(torch._make_per_tensor_quantized_tensor(weight, scale, zero_point), None)
    return linear


@contextmanager
def ignore_deprecation() -> Iterator[None]:
    """Ignore that torch deprecates this interface: the published figures need it, and the version of torch is fixed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.ao.quantization is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor, torch.quantize_per_channel", UserWarning)
        yield


def _read_modules(path: Path) -> dict[str, dict[str, Any]]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        method, modules = description["method"], description["modules"]
        parameters = {
            name: {"scale": float(m["scale"]), "zero_point": int(m["zero_point"])} for name, m in modules.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: unreadable description of quantized modules ({error!r})") from None
    if method != METHOD:
        raise CheckpointError(f"{path}: method is {method!r}; allowed: {METHOD!r}")
    return parameters
