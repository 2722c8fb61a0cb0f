"""What every spec is: a frozen model that refuses fields it does not know; and what a recipe step is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

EngineName = Literal["torch", "onnxruntime", "openvino", "ctranslate2"]


ForeignFormat = Literal["huggingface", "onnx", "openvino", "ctranslate2"]


class Spec(BaseModel):
    """Base of every spec: immutable, and an unknown field is an error rather than silently ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _fields_are_known(cls, content: Any) -> Any:
        # Pydantic's own message does not say which fields there are.
        is_open = cls.model_config.get("extra") == "allow"
        for name in content if isinstance(content, dict) and not is_open else ():
            if name not in cls.model_fields:
                raise ValueError(f"{name!r} is not a field; allowed: {', '.join(cls.model_fields)}")
        return content


LocalPath = Annotated[Path, AfterValidator(Path.expanduser)]
"""A path on this machine; `~` is the home directory."""


USER_STEP = r"^\w+(\.\w+)*:\w+$"


class StepSpec(Spec):
    """Base of what a recipe step's spec is, in slimline and in a user's own module."""

    step: str = Field("", description="Its name: one of slimline's, or `module:function` of a user's own.")


class UserStep(StepSpec):
    """A step of a user's own: the fields that its own spec has checked, as plain data.

    A host that only measures, and whoever reads the study in the store, has no need of the user's module.
    """

    model_config = ConfigDict(extra="allow")

    step: str = Field(pattern=USER_STEP)
