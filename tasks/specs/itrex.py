"""Steps of Intel's own library, intel-extension-for-transformers (ITREX)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat

from slimline.tasks.specs.base import StepSpec
from slimline.tasks.specs.training import EpochTraining


class ItrexPrune(EpochTraining):
    """Group-lasso pruning by ITREX itself: 4x1 blocks of every matrix go to zero, and the zeros stay there."""

    step: Literal["itrex-group-lasso"] = "itrex-group-lasso"
    sparsity: float = Field(0.6, gt=0.0, lt=1.0, description="Share of every matrix set to zero.")
    alpha: PositiveFloat = Field(1e-3, description="Strength of the penalty, which is the sum of the blocks' norms.")
    learning_rate: PositiveFloat = Field(5e-4, lt=1.0)


class ItrexQuantize(StepSpec):
    """Post-training dynamic int8 by ITREX itself, as published: of GPT-2 it takes the embeddings and the head."""

    step: Literal["itrex-dynamic-int8"] = "itrex-dynamic-int8"
