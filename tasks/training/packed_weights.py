"""Training of a packed model: only scales, norms and biases are trained, not the integers (PEQA, arXiv:2305.14152).

So a model recovers from its quantization, and needs no second quantization.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from slimline.tasks.models.packed import PACKED_FILE, PackedEmbedding, PackedLinear, PackedMatrix, load_packed

_FILES = ("config.json", "tokenizer.json")


class _ScaledModule(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """A packed matrix whose scales are multiplied by 1 + `gain`; `gain` [rows, groups] is trained."""

    def __init__(self, packed: PackedLinear | PackedEmbedding, gain: nn.Parameter) -> None:
        super().__init__()
        self.packed = packed
        self.gain = gain
        self._original: PackedMatrix = packed.matrix

    def forward(self, inputs: Tensor) -> Tensor:
        self.packed.matrix = self._original._replace(scales=self.scales())
        outputs: Tensor = self.packed(inputs)
        return outputs

    def scales(self) -> Tensor:
        return self._original.scales.float() * (1 + self.gain)


def load_trainable(directory: Path) -> GPT2LMHeadModel:
    """The packed model of `directory` in fp32; its only parameters are gains, norms and biases.

    A tied head has the same gains as the embedding.

    Raises:
        CheckpointError: as `load_packed`.
    """
    model = load_packed(directory, torch.float32)
    embedding = model.transformer.wte
    shared = nn.Parameter(torch.zeros(embedding.matrix.scales.shape))
    for name, module in list(model.named_modules()):
        if isinstance(module, PackedLinear | PackedEmbedding):
            is_tied = name == "lm_head" and model.config.tie_word_embeddings
            own = is_tied or module is embedding
            model.set_submodule(
                name, _ScaledModule(module, shared if own else nn.Parameter(torch.zeros(module.matrix.scales.shape)))
            )
    return model.requires_grad_(True)


def save_trained(model: GPT2LMHeadModel, source: Path, target: Path) -> None:
    """Write the packed model of `source` with the scales, norms and biases of `model`, from `load_trainable`."""
    tensors = load_file(source / PACKED_FILE)
    for name, module in model.named_modules():
        if isinstance(module, _ScaledModule) and f"{name}.scales" in tensors:
            tensors[f"{name}.scales"] = module.scales().detach().to(torch.float16)
    for name, value in model.named_parameters():
        stored = name.replace(".packed.", ".")
        if stored in tensors:
            tensors[stored] = value.detach().to(torch.float16)
    target.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, target / PACKED_FILE, metadata={"format": "pt"}
    )
    for name in _FILES:
        shutil.copyfile(source / name, target / name)
