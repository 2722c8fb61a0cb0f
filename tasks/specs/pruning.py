"""Steps that take parts of a model out."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from slimline.tasks.specs.base import StepSpec


class TrimVocabulary(StepSpec):
    """Keep the first entries of the byte-pair vocabulary: merges are dropped from the last one backwards."""

    step: Literal["trim-vocabulary"] = "trim-vocabulary"
    tokens: int = Field(4096, ge=512, description="Entries to keep, single bytes and placeholders included.")


class ReduceLayers(StepSpec):
    """Keep some layers of a model, at equal distances and as they are: a student that is to be distilled."""

    step: Literal["reduce-layers"] = "reduce-layers"
    layers: PositiveInt | None = Field(None, description="Layers to keep; null: half of them, rounded up.")


class Slim(StepSpec):
    """Structured pruning: neurons, heads, channels and layers are taken out, and what remains is repaired.

    The result is a smaller dense GPT-2. Exactly one target is given: `sparsity`, `params_m` or `speedup`.
    """

    step: Literal["slim"] = "slim"
    sparsity: float | None = Field(None, gt=0.0, lt=1.0, description="Share of the parameters to take out.")
    params_m: PositiveFloat | None = Field(None, description="Millions of parameters to keep at most.")
    speedup: float | None = Field(None, gt=1.0, le=100.0, description="How much faster, by this host's latency table.")
    timed_on: Literal["torch", "onnxruntime", "onnxruntime-int8"] = Field(
        "onnxruntime-int8", description="What `speedup` is timed with."
    )
    importance: Literal["brain-surgeon", "magnitude"] = Field(
        "brain-surgeon",
        description="What is least needed, by the error that its removal causes on calibration windows; or, without "
        "any, what is smallest: for random weights only.",
    )
    calibration_windows: PositiveInt = Field(32, le=4096, description="Windows of the training split to decide on.")
    window: PositiveInt = Field(512, le=1024, description="Tokens of a window.")
    trial_steps: NonNegativeInt = Field(
        24, le=10_000, description="Optimizer steps after which the best shapes are compared; 0: as they are cut."
    )

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        given = [name for name in ("sparsity", "params_m", "speedup") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"targets given: {', '.join(given) or 'none'}; one of sparsity, params_m, speedup is needed"
            )
        return self
