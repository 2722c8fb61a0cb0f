"""Steps that quantize a model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from slimline.tasks.specs.base import StepSpec


class DynamicInt8(StepSpec):
    """Post-training dynamic int8 as published: torch's, which swaps nn.Linear only and so skips GPT-2's Conv1D."""

    step: Literal["dynamic-int8"] = "dynamic-int8"


WeightBits = Annotated[
    Literal[7, 8] | None,
    Field(description="Bits of a weight: 7 for hosts without VNNI, where 8 saturate. Empty: as this host needs."),
]


class OnnxInt8(StepSpec):
    """Dynamic int8 of every projection of an ONNX graph, the tied head included."""

    step: Literal["onnx-int8"] = "onnx-int8"
    per_channel: bool = True
    weight_bits: WeightBits = None


class OnnxLowBit(StepSpec):
    """Dynamic int8 of an ONNX graph whose weights `xtc` has trained: they are stored in the bits that they need."""

    step: Literal["onnx-low-bit"] = "onnx-low-bit"
    weight_bits: WeightBits = None


class CalibratedInt8(StepSpec):
    """Int8 whose ranges of activations are taken from text."""

    calibration_samples: PositiveInt = Field(64, description="Windows of the training split the ranges are taken from.")
    weight_bits: WeightBits = None


class OnnxStaticInt8(CalibratedInt8):
    """Static int8 of every projection of an ONNX graph: activation scales are calibrated, not computed at run time."""

    step: Literal["onnx-static-int8"] = "onnx-static-int8"


class MpPtq(CalibratedInt8):
    """Static int8 in which the most sensitive activations have 16 bits: mixed-precision post-training quantization."""

    step: Literal["mp-ptq"] = "mp-ptq"
    sensitive_share: float = Field(
        0.15, ge=0.0, le=1.0, description="Share of the tensors that get 16 bits: those that lose most in 8."
    )


class PegPtq(CalibratedInt8):
    """Static int8 with a range for each group of channels: per-embedding-group post-training quantization."""

    step: Literal["peg-ptq"] = "peg-ptq"
    groups: int = Field(4, ge=1, le=64, description="Groups of channels: each is a product of its own.")


class OpenvinoInt8(CalibratedInt8):
    """Post-training int8 of an OpenVINO model by nncf, calibrated."""

    step: Literal["openvino-int8"] = "openvino-int8"


class WeightOnly(StepSpec):
    """Weights in int8 or int4, activations in floating point, by neural-compressor; stored packed."""

    step: Literal["weight-only"] = "weight-only"
    method: Literal["rtn", "gptq"] = Field("rtn", description="Round to nearest, or GPTQ (arXiv:2210.17323).")
    bits: Literal[4, 8] = 8
    group_size: int = Field(32, ge=8, description="Weights that share a scale.")
    calibration_samples: PositiveInt = Field(32, description="Windows of the training split (gptq only).")
