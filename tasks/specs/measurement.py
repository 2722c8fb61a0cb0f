"""What a model runs on, and how its completions are produced."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from slimline.tasks.specs.base import EngineName, Spec, StepSpec


class Engine(StepSpec):
    """What runs the artifact: the last step of every recipe."""

    step: Literal["engine"] = "engine"
    name: EngineName
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="What floating-point operators compute in; bfloat16: torch and openvino only."
    )
    draft_tokens: NonNegativeInt = Field(
        0,
        le=32,
        description="Prompt-lookup speculation: tokens drafted from an n-gram seen before and checked in one pass; the "
        "result is exactly greedy. 0: off; not for ctranslate2.",
    )

    @model_validator(mode="after")
    def _engine_can_do_it(self) -> Self:
        if self.dtype == "bfloat16" and self.name not in ("torch", "openvino"):
            raise ValueError(f"dtype: bfloat16 is not for {self.name}; allowed: float32")
        if self.draft_tokens and self.name == "ctranslate2":
            raise ValueError("draft_tokens: ctranslate2 takes no drafts; allowed: 0")
        if self.draft_tokens and (self.name, self.dtype) == ("torch", "bfloat16"):
            raise ValueError("draft_tokens: torch rounds bfloat16 differently for several tokens at once; allowed: 0")
        return self


class Decoding(Spec):
    """How a completion is produced; part of what EM and ES mean."""

    beams: PositiveInt = Field(1, le=16, description="1: greedy; 5: as CodeXGLUE.")
    max_new_tokens: PositiveInt = Field(100, le=512)
    fixed_new_tokens: PositiveInt | None = Field(
        None, description="Generate exactly this many tokens: for random weights, which never end a line."
    )


class ScoreStep(Spec):
    """Everything the completions of a model depend on besides the model and the samples."""

    step: Literal["score"] = "score"
    engine: Engine
    decoding: Decoding
    batch_size: PositiveInt
    threads: PositiveInt
