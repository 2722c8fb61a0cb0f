"""Steps that train a model."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from slimline.tasks.specs.base import StepSpec


class Training(StepSpec):
    """What every step that trains shares."""

    window: PositiveInt = Field(512, le=1024, description="Tokens per packed training window.")
    batch_size: PositiveInt = Field(16, description="Windows per optimizer step.")
    learning_rate: PositiveFloat = Field(5e-5, lt=1.0)
    seed: NonNegativeInt = 0


class TimedTraining(Training):
    """Training for a fixed time, or number of steps: Muon for the blocks' matrices, AdamW for everything else."""

    minutes: PositiveFloat = Field(60.0, description="Training time; the rate decays linearly over its second half.")
    max_steps: PositiveInt | None = Field(None, description="Optimizer steps at most; null: as the time allows.")
    learning_rate: PositiveFloat = Field(3e-3, lt=1.0, description="AdamW's rate (embeddings, norms, biases).")
    muon_learning_rate: PositiveFloat = Field(0.02, lt=1.0, description="Muon's rate (the blocks' matrices).")
    checkpoint_minutes: PositiveFloat = 5.0


class Pretrain(TimedTraining):
    """Train from random weights (the bundled model was made so)."""

    step: Literal["pretrain"] = "pretrain"


class EpochTraining(Training):
    """Training measured in passes over the data."""

    epochs: PositiveFloat = Field(1.0, le=100)
    max_steps: PositiveInt | None = Field(None, description="Optimizer steps at most; null: whole epochs.")


class FineTune(EpochTraining):
    """Fine-tune on code completion with the Hugging Face Trainer."""

    step: Literal["fine-tune"] = "fine-tune"


class GroupLasso(EpochTraining):
    """Group-lasso pruning after the published recipe: blocks of every matrix go to zero, and the zeros stay there."""

    step: Literal["group-lasso"] = "group-lasso"
    sparsity: float = Field(0.6, gt=0.0, lt=1.0, description="Share of every matrix set to zero.")
    block: tuple[PositiveInt, PositiveInt] = Field((4, 1), description="Outputs x inputs of one block.")
    learning_rate: PositiveFloat = Field(5e-4, lt=1.0)
    penalty: Literal["proximal", "gradient-scaled"] = Field(
        "proximal",
        description="The textbook's proximal step, the same length for all; or Neural Compressor's, by the gradient.",
    )
    strength: float = Field(
        0.5, gt=0.0, lt=1.0, description="Share of a median block's size that the penalty takes until the ramp ends."
    )
    warmup_share: float = Field(0.1, ge=0.0, lt=1.0, description="Share of the steps before blocks are set to zero.")
    ramp_share: float = Field(0.6, gt=0.0, le=1.0, description="Share of the steps over which sparsity rises.")

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        if (end := self.warmup_share + self.ramp_share) > 1:
            raise ValueError(f"warmup_share + ramp_share is {end:g}; allowed: at most 1")
        return self


class Distillation(TimedTraining):
    """Training of a student on the outputs of the study's prepared base (Hinton et al. 2015)."""

    learning_rate: PositiveFloat = Field(2e-3, lt=1.0, description="AdamW's rate (embeddings, norms, biases).")
    muon_learning_rate: PositiveFloat = Field(0.01, lt=1.0, description="Muon's rate (the blocks' matrices).")
    teacher_share: float = Field(0.5, ge=0.0, le=1.0, description="Weight of the teacher against that of the text.")
    temperature: PositiveFloat = Field(1.0, le=20.0, description="Softens both distributions.")
    hidden_weight: float = Field(
        0.0, ge=0.0, le=100.0, description="Weight of matching hidden states, relative to the size of the teacher's."
    )
    hidden_layers: Literal["last", "all"] = Field(
        "last", description="Which are matched: the last ones, or those after every layer of the student."
    )


class Distill(Distillation):
    """Knowledge distillation from the study's prepared base; with no share, training as before."""

    step: Literal["distill"] = "distill"


class Xtc(Distillation):
    """Training of a model in 1-bit or ternary weights, embeddings and head included, and activations in 8 bits.

    The result is a checkpoint whose weights have only these values; `onnx-low-bit` packs and executes them.
    """

    step: Literal["xtc"] = "xtc"
    bits: Literal[1, 2] = Field(1, description="Bits of a weight: 1, or 2 for -1, 0 and 1 (ternary).")
    table_bits: Literal[1, 2, 8] | None = Field(
        None, description="Bits of the embeddings and of the head; null: as of all other weights."
    )
    teacher_share: float = Field(1.0, ge=0.0, le=1.0, description="Weight of the teacher against that of the text.")
