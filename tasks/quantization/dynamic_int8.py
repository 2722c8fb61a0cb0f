"""Post-training dynamic int8 as published: torch's, of `nn.Linear` only.

GPT-2's projections are `Conv1D`, which torch's quantization does not know, so of a whole model it converts the output
head: the head loses its tie to the embedding, gets one scale for the whole matrix, and everything else stays fp32. That
is the result to reproduce; `onnx_int8` is the repair.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.ao.nn.quantized.dynamic import Linear as Int8Linear
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from tasks.engines.checkpoint import QUANTIZATION, WEIGHTS, CheckpointError, check_weights, read_gpt2_config
from tasks.engines.torch_loading import load_fp32

METHOD = "torch-dynamic-int8"


def quantize_linear_only(model_dir: Path, target: Path) -> dict[str, Any]:
    """Quantizes the checkpoint `model_dir` into `target`: int8 weights in `model.safetensors`, their scales in
    `quantization.json`, all other files as they were, but for the config's `tie_word_embeddings`, now false.

    Returns:
        Notes for provenance: matmuls (projections and head), int8_matmuls.

    Raises:
        CheckpointError: the checkpoint is no GPT-2 or is damaged.
    """
    model = load_fp32(model_dir)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    modules = {}
    for name, weight in _quantized_weights(model).items():
        tensors[f"{name}.weight"] = weight.int_repr()
        modules[name] = {"scale": weight.q_scale(), "zero_point": weight.q_zero_point()}
    target.mkdir(parents=True, exist_ok=True)
    _copy_other_files(model_dir, target)
    save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
    _write_json(target / QUANTIZATION, {"method": METHOD, "modules": modules})
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    _write_json(target / "config.json", config | {"tie_word_embeddings": False})
    matmuls = sum(isinstance(module, Conv1D | torch.nn.Linear) for module in model.modules())
    return {"matmuls": matmuls, "int8_matmuls": len(modules)}


def load_quantized(directory: Path) -> GPT2LMHeadModel:
    """The model that `quantize_linear_only` wrote, in evaluation mode.

    Raises:
        CheckpointError: the directory is no such model, is damaged, or lacks tensors.
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


def _quantized_weights(model: GPT2LMHeadModel) -> dict[str, torch.Tensor]:
    """The int8 weights torch's dynamic quantization gives, by module name."""
    with _deprecated_quantization():
        quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    return {name: module.weight() for name, module in quantized.named_modules() if isinstance(module, Int8Linear)}


def _int8_linear(weight: torch.Tensor, scale: float, zero_point: int) -> Int8Linear:
    outputs, inputs = weight.shape
    with _deprecated_quantization():
        linear = Int8Linear(inputs, outputs, bias_=False)
        linear.set_weight_bias(torch._make_per_tensor_quantized_tensor(weight, scale, zero_point), None)
    return linear


@contextmanager
def _deprecated_quantization() -> Iterator[None]:
    """torch announces the end of the very interface that the published figures come from; torch is pinned for it."""
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


def _copy_other_files(source: Path, target: Path) -> None:
    for path in source.iterdir():
        if path.is_file() and path.name not in (WEIGHTS, "config.json"):
            shutil.copyfile(path, target / path.name)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
