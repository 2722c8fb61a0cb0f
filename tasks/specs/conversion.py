"""Steps that bring a model to another form, or take one that is there."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from slimline.tasks.specs.base import ForeignFormat, LocalPath, StepSpec
from slimline.tasks.specs.quantization import WeightBits


class PrebuiltModel(StepSpec):
    """A compressed form of the bundled model that ships with slimline, made by the study of the same name."""

    step: Literal["prebuilt"] = "prebuilt"
    name: Literal["slim", "slim-75", "slim-90", "original-longer"] = "slim"


class External(StepSpec):
    """A model that others made, measured as it is: the first step of a recipe, in place of the study's base."""

    step: Literal["external"] = "external"
    directory: LocalPath = Field(
        description="Of a Hugging Face checkpoint, or a model of optimum, ONNX Runtime GenAI, optimum-intel or "
        "CTranslate2; with its tokenizer.json."
    )
    format: ForeignFormat | None = Field(None, description="Null: told by the files.")
    file: str | None = Field(None, min_length=1, description="The graph's file, if the directory has several.")
    n_positions: PositiveInt | None = Field(None, description="Most tokens of a text; null: as the directory says.")


class ExportOnnx(StepSpec):
    """One ONNX graph with key/value cache in and out."""

    step: Literal["export-onnx"] = "export-onnx"


class ExportOpenvino(StepSpec):
    """One OpenVINO model whose key/value cache is its own state."""

    step: Literal["export-openvino"] = "export-openvino"


class ExportCtranslate2(StepSpec):
    """A CTranslate2 model directory, weights as they are or in int8."""

    step: Literal["export-ctranslate2"] = "export-ctranslate2"
    precision: Literal["float32", "int8"] = "float32"
    weight_bits: WeightBits = None

    @model_validator(mode="after")
    def _bits_are_of_int8(self) -> Self:
        if self.weight_bits is not None and self.precision != "int8":
            raise ValueError(f"weight_bits: {self.weight_bits}; allowed: none, or precision int8")
        return self
