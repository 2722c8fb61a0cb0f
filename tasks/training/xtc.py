"""Training of a GPT-2 whose weights have only two or three values (XTC, arXiv:2206.01859).

The weights are rounded anew in each step, and the gradient passes the rounding as if it were not there (the straight-
through estimator, arXiv:1308.3432). One scale belongs to an output of a projection, or to a token's row of a table:

- 1 bit: w ~ mean|w| * sign(w), the best of its kind in squared error (XNOR-Net, arXiv:1603.05279, equation 6);
- ternary: w ~ a * sign(w) where |w| > 0.7 mean|w|, else 0, with `a` the mean of |w| there (ternary weight networks,
  arXiv:1605.04711, equation 6).

The input of each projection, and of the head, is rounded to 8 bits with a scale per token, as `onnx-int8` does it.
XTC's recipe is a single stage, in which the teacher's logits and hidden states are the only aim (section 3.3).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from slimline.tasks.models.loading import load_gpt2, save_gpt2
from slimline.tasks.specs import Xtc
from slimline.tasks.training.distill import Lesson, teach

_TERNARY_THRESHOLD = 0.7  # of the mean of |w|: ternary weight networks, equation 6
_INT8 = 127
_TINY = 1e-8


def xtc(spec: Xtc, model_dir: Path, teacher_dir: Path, slice_dir: Path, target: Path, work_dir: Path) -> dict[str, Any]:
    """Train the model of `model_dir` in low-bit weights, and write these weights, as an fp32 checkpoint, to `target`.

    Returns:
        Notes for provenance: those of the distillation, weight_bits and table_bits.

    Raises:
        ValueError: as `teach`.
    """
    student = load_gpt2(model_dir)
    table_bits = spec.table_bits or spec.bits
    round_in_training(student, spec.bits, table_bits)
    notes = teach(spec, student, Lesson(model_dir, teacher_dir, slice_dir, work_dir))
    settle(student)
    save_gpt2(student, model_dir, target)
    return {**notes, "trained_bits": spec.bits, "table_bits": table_bits}


def round_in_training(model: GPT2LMHeadModel, bits: int, table_bits: int) -> None:
    """Let every matrix of a model be rounded whenever it is used, in place.

    Args:
        model: Which keeps its parameters, and their names.
        bits: Of the blocks' projections: 1, 2 (ternary) or 8.
        table_bits: Of embeddings and head.
    """
    kinds = {Conv1D: (_LowBitConv1D, bits), nn.Embedding: (_LowBitEmbedding, table_bits)}
    kinds[nn.Linear] = (_LowBitLinear, table_bits)
    for name, module in list(model.named_modules()):
        if type(module) in kinds:
            kind, its_bits = kinds[type(module)]
            model.set_submodule(name, kind(module, its_bits))


def settle(model: GPT2LMHeadModel) -> None:
    """Replace every matrix by what it was rounded to in training, with scales that fp16 can hold."""
    for module in model.modules():
        if isinstance(module, _LowBit):
            with torch.no_grad():
                values = round_weights(module.weight, module.bits, module.axis)
                steps = values.abs().amax(module.axis, keepdim=True) / (_INT8 if module.bits == 8 else 1)
                module.weight.copy_((values / steps.clamp(min=_TINY)).round() * steps.half().float())


class _LowBit(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """A module whose weight is rounded when it is used; the scale is of all numbers along `axis`."""

    axis = 1

    def __init__(self, module: nn.Module, bits: int) -> None:
        super().__init__()
        self.weight: nn.Parameter = module.weight
        self.bits = bits

    def rounded(self) -> Tensor:
        return straight_through(self.weight, round_weights(self.weight, self.bits, self.axis))


class _LowBitConv1D(_LowBit):
    axis = 0

    def __init__(self, module: Conv1D, bits: int) -> None:
        super().__init__(module, bits)
        self.bias: nn.Parameter = module.bias

    def forward(self, tokens: Tensor) -> Tensor:
        product: Tensor = round_tokens(tokens) @ self.rounded()
        return product + self.bias


class _LowBitLinear(_LowBit):
    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(round_tokens(tokens), self.rounded())


class _LowBitEmbedding(_LowBit):
    def forward(self, ids: Tensor) -> Tensor:
        rows = F.embedding(ids, self.weight)
        return straight_through(rows, round_weights(rows, self.bits, -1))


def straight_through(values: Tensor, rounded: Tensor) -> Tensor:
    """`rounded`, with the gradient of `values`."""
    return values + (rounded - values).detach()


def round_weights(weight: Tensor, bits: int, axis: int) -> Tensor:
    """The nearest matrix of the few values that `bits` allow, in fp32 and without a gradient.

    Args:
        weight: A matrix.
        bits: 1; 2 for -1, 0 and 1; or 8, where the largest number is ±127 steps.
        axis: Along which numbers share a scale.
    """
    weight = weight.detach()
    sizes = weight.abs()
    if bits == 8:
        scale = sizes.amax(axis, keepdim=True).clamp(min=_TINY) / _INT8
        return (weight / scale).round() * scale
    mean = sizes.mean(axis, keepdim=True)
    if bits == 1:
        return torch.where(weight < 0, -mean, mean)
    is_large = sizes > _TERNARY_THRESHOLD * mean
    scale = (sizes * is_large).sum(axis, keepdim=True) / is_large.sum(axis, keepdim=True).clamp(min=1)
    return weight.sign() * is_large * scale


def round_tokens(tokens: Tensor) -> Tensor:
    """Hidden states rounded to 8 bits, ±127 at the largest number of each token; the gradient passes."""
    values = tokens.detach().float()
    scale = values.abs().amax(-1, keepdim=True).clamp(min=_TINY) / _INT8
    return straight_through(tokens, (values / scale).round() * scale)
