"""The forms of a model: what steps take and leave, how each is stored, and what runs it."""

from __future__ import annotations

from typing import Literal

from slimline.tasks.specs import EngineName, ForeignFormat

Form = Literal[
    "checkpoint",
    "quantized checkpoint",
    "packed checkpoint",
    "graph",
    "quantized graph",
    "OpenVINO model",
    "quantized OpenVINO model",
    "CTranslate2 model",
    "foreign checkpoint",
    "foreign graph",
    "foreign OpenVINO model",
    "foreign CTranslate2 model",
]
Kind = Literal["slice", "model", "packed", "onnx", "openvino", "ctranslate2", "predictions"]
KIND_OF: dict[Form, Kind] = {
    "checkpoint": "model",
    "quantized checkpoint": "model",
    "packed checkpoint": "packed",
    "graph": "onnx",
    "quantized graph": "onnx",
    "OpenVINO model": "openvino",
    "quantized OpenVINO model": "openvino",
    "CTranslate2 model": "ctranslate2",
    "foreign checkpoint": "model",
    "foreign graph": "onnx",
    "foreign OpenVINO model": "openvino",
    "foreign CTranslate2 model": "ctranslate2",
}
"""The kind of artifact that a model of each form is stored as."""
ENGINE_OF: dict[str, EngineName] = {
    "model": "torch",
    "packed": "torch",
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "ctranslate2": "ctranslate2",
}
"""The engine that runs each kind of artifact."""
FORM_OF: dict[ForeignFormat, Form] = {
    "huggingface": "foreign checkpoint",
    "onnx": "foreign graph",
    "openvino": "foreign OpenVINO model",
    "ctranslate2": "foreign CTranslate2 model",
}
"""What a model that others made is, by its format."""
