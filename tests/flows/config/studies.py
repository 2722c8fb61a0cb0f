"""Small studies of which tests change a part."""

import pytest

from slimline.flows.config.study import StudyError, parse_study

TORCH = {"step": "engine", "name": "torch"}
ONNXRUNTIME = {"step": "engine", "name": "onnxruntime"}
DYNAMIC, EXPORT, ONNX_INT8 = ({"step": name} for name in ("dynamic-int8", "export-onnx", "onnx-int8"))
ORIGINAL = {"label": "baseline", "recipe": [TORCH]}


def study_of(**changes):
    return {"name": "mine", "variants": {"original": ORIGINAL}} | changes


def recipe(*steps, **changes):
    return study_of(variants={"original": ORIGINAL, "odd": {"recipe": list(steps)} | changes})


def lasso(**fields):
    return recipe({"step": "group-lasso", **fields}, TORCH)


def refusal(content):
    with pytest.raises(StudyError) as refused:
        parse_study(content)
    return str(refused.value)
