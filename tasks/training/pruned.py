"""Pruned weights stay pruned in later training: an optimizer's step would make numbers of the zeros again."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_LEAST_SHARE = 0.1


class PrunedWeights:
    """The zeros of a model's pruned matrices: of those with more than a tenth of zeros, which no training gives."""

    def __init__(self, model: nn.Module) -> None:
        """Find them. A matrix of zeros alone is none of them: it was initialised so, to be trained."""
        zeros = [(weight, weight.detach() == 0) for weight in model.parameters() if weight.ndim == 2]
        self._zeros = [(weight, where) for weight, where in zeros if _LEAST_SHARE < where.float().mean() < 1]

    def to_zero(self) -> None:
        """Set them to zero again, after an optimizer's step."""
        with torch.no_grad():
            for weight, where in self._zeros:
                weight.masked_fill_(where, 0.0)


class StayPruned(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by mypy
    """Keeps a model pruned that the Trainer trains."""

    def __init__(self, model: nn.Module) -> None:
        """Find what is pruned, before the training."""
        self._pruned = PrunedWeights(model)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Set it to zero again."""
        self._pruned.to_zero()
