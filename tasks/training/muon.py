"""Muon (Jordan et al. 2024) in single precision, for processors without instructions for bf16.

torch's own orthogonalizes in bf16. Where a processor has no instructions for it, that takes longer than all the rest of
a training step: of the bundled model 6.8 s of 9.9 s, in place of 0.2 s.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_TINY = 1e-7  # torch's eps: so that a gradient of zeros can be normalized


class Float32Muon(torch.optim.Muon):  # type: ignore[misc]  # torch is not followed by mypy
    """`torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`, with the same state and steps, but for the rounding."""

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Any = None) -> None:
        """Do one optimizer step; a closure is not called."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)

    def _update(self, weight: Tensor, group: dict[str, Any]) -> None:
        momentum = self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))
        momentum.lerp_(weight.grad, 1 - group["momentum"])
        update = weight.grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        rate = group["lr"] * 0.2 * math.sqrt(max(weight.shape))  # as large as AdamW's (arXiv:2502.16982, equation 4)
        weight.add_(orthogonalize(update, group["ns_coefficients"], group["ns_steps"]), alpha=-rate)


def orthogonalize(matrix: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """Newton and Schulz's iteration: a matrix of the same singular vectors, with singular values near 1."""
    a, b, c = coefficients
    is_tall = matrix.shape[0] > matrix.shape[1]
    result = (matrix.T if is_tall else matrix) / matrix.norm().clamp(min=_TINY)
    for _ in range(steps):
        gram = result @ result.T
        result = a * result + (b * gram + c * gram @ gram) @ result
    return result.T if is_tall else result
