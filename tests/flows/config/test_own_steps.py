"""Steps of a recipe that a user defines in a module beside the study."""

import re
import sys

import pytest
import yaml

from slimline.flows.config.study import Study, StudyError, load_study, parse_study
from tests.flows.config.studies import ONNX_INT8, ONNXRUNTIME, TORCH, recipe, refusal

MODULE = """
from slimline.tasks.registry import recipe_step
from slimline.tasks.specs import StepSpec
class Mine(StepSpec):
    share: float = 0.5
def keep(spec: Mine, model, target): ...
@recipe_step(takes="checkpoint", makes="quantized graph")
def export(spec: Mine, model, target): ...
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The name of a user's module, another one in every test: Python imports a name once."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return name


def test_a_module_beside_the_study_is_found_and_fields_get_its_defaults(own, tmp_path):
    steps = [{"step": f"{own}:keep"}, {"step": f"{own}:export", "share": 0.25}, ONNXRUNTIME]
    content = recipe(*steps) | {"prepare": [{"step": f"{own}:keep", "share": 1}]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    study = load_study(str(tmp_path / "mine.yaml"))
    keep, export = study.variants["odd"].steps
    assert keep.model_dump() == {"step": f"{own}:keep", "share": 0.5}
    assert (export.model_dump()["share"], study.prepare[0].model_dump()["share"]) == (0.25, 1.0)
    assert Study.model_validate_json(study.model_dump_json()) == study == parse_study(study.model_dump())


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (["keep", ONNX_INT8, ONNXRUNTIME], "recipe.1: onnx-int8 takes a graph, but it would get a checkpoint"),
        (["export", TORCH], "recipe.1: engine torch runs a checkpoint or quantized checkpoint"),
        (["export", "keep", TORCH], "keep takes a checkpoint, but it would get a quantized graph"),
        (["export", ONNX_INT8, ONNXRUNTIME], "recipe.1: onnx-int8 quantizes what is quantized already"),
    ],
)
def test_a_step_of_ones_own_has_to_fit_in(own, tmp_path, monkeypatch, steps, message):
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(StudyError, match=re.escape(message)):
        parse_study(recipe(*({"step": f"{own}:{step}"} if isinstance(step, str) else step for step in steps)))


def test_reading_a_study_imports_no_module(own, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    content = recipe({"step": f"{own}:keep", "anything": [1]}, TORCH)
    assert (
        Study.model_validate(content).variants["odd"].steps[0].model_dump() == content["variants"]["odd"]["recipe"][0]
    )
    assert own not in sys.modules


def test_only_a_module_with_a_function_names_a_step():
    for name in ("os:path:join", "a b:c", ":keep", "steps:"):
        assert "variants.odd.recipe.0.step: String should match pattern" in refusal(recipe({"step": name}, TORCH))
