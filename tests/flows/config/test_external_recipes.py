"""Recipes that begin with a model that others made: what the files are decides which engine may follow."""

import re
from pathlib import Path

import pytest

from slimline.flows.config.study import Study, load_study, parse_study
from slimline.storage.artifacts.store import ArtifactStore
from slimline.tasks import build
from slimline.tasks.measurement import rounds
from slimline.tasks.specs import Engine
from tests.command import ROOT
from tests.flows.config.studies import EXPORT, ONNXRUNTIME, TORCH, recipe, refusal, study_of
from tests.tasks.external.exported import export_of

DOCUMENT = (ROOT / "docs" / "compression.md").read_text("utf8")


@pytest.fixture
def theirs(tmp_path: Path) -> dict[str, object]:
    return {"step": "external", "directory": str(export_of("optimum", tmp_path / "theirs"))}


def test_the_engine_is_that_of_the_format(theirs: dict[str, object]) -> None:
    study = parse_study(recipe(theirs, ONNXRUNTIME))
    assert (study.variants["odd"].engine.name, study.variants["odd"].label) == ("onnxruntime", "external")
    assert Study.model_validate_json(study.model_dump_json()) == study
    wrong = refusal(recipe(theirs, TORCH))
    assert "recipe.1: engine torch runs" in wrong and "not a foreign graph; allowed: onnxruntime" in wrong


def test_a_study_in_the_store_is_read_where_the_directory_is_not(theirs: dict[str, object]) -> None:
    study = parse_study(recipe(theirs, ONNXRUNTIME))
    elsewhere = study.model_dump_json().replace("/theirs", "/elsewhere")
    assert Study.model_validate_json(elsewhere).variants["odd"].steps


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"directory": "/no/such"}, "recipe.0.directory: /no/such is not a directory"),
        ({"directory": str(ROOT / "docs")}, "docs has no model; allowed: one with *.safetensors"),
        ({"format": "openvino"}, "has no file of openvino: *.xml"),
        ({"format": "gguf"}, "'gguf'"),
        ({"files": "model.onnx"}, "'files' is not a field; allowed: step, directory, format, file, n_positions"),
        ({"n_positions": 0}, "greater than 0"),
    ],
)
def test_the_directory_has_a_model(theirs: dict[str, object], change: dict[str, object], reason: str) -> None:
    assert reason in refusal(recipe({**theirs, **change}, ONNXRUNTIME))


def test_two_formats_are_told_apart_by_name(theirs: dict[str, object]) -> None:
    (Path(str(theirs["directory"])) / "model.safetensors").touch()
    assert "has files of huggingface, onnx; say which one is meant" in refusal(recipe(theirs, ONNXRUNTIME))
    assert parse_study(recipe({**theirs, "format": "onnx"}, ONNXRUNTIME))


def test_it_is_the_first_step_and_nothing_of_ours_follows(theirs: dict[str, object]) -> None:
    assert "recipe.1: external takes no model; it must be the first step" in refusal(
        recipe(EXPORT, theirs, ONNXRUNTIME)
    )
    assert "takes a checkpoint, but it would get a foreign graph" in refusal(recipe(theirs, EXPORT, ONNXRUNTIME))
    assert "the last step must be an engine" in refusal(recipe(theirs))
    assert "leaves a foreign graph" in refusal(study_of(prepare=[theirs]))
    drafts = refusal(recipe(theirs, ONNXRUNTIME | {"draft_tokens": 2}))
    assert "recipe.1.draft_tokens: not for an external model; allowed: 0" in drafts


def test_it_is_built_measured_and_built_again_when_a_byte_changes(theirs: dict[str, object], tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    (step,) = parse_study(recipe(theirs, ONNXRUNTIME)).variants["odd"].steps
    made = build.adopt(step, store)
    provenance = store.provenance(made)
    assert (made.kind, provenance.inputs, provenance.notes["format"]) == ("onnx", [], "onnx")
    assert len(provenance.notes["reference"]["logits"]) == 32
    sizes = {each.metric: each.value for each in rounds.measure_size("odd", made, store)}
    assert sizes["params_m"] == pytest.approx(0.0124, rel=0.02)
    assert rounds.artifact_work(made, Engine(name="onnxruntime"), store) is None
    key = build.step_key(step, ())
    graph = Path(str(theirs["directory"])) / "config.json"
    graph.write_text(graph.read_text("utf8").replace('"n_positions": 64', '"n_positions": 63'), "utf8")
    assert build.step_key(step, ()) != key


def test_the_documents_example_is_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = re.findall(r"```yaml\n(base: (?:(?!```).)*?external.*?)```", DOCUMENT, re.DOTALL)
    (tmp_path / "theirs.yaml").write_text(text, "utf8")
    for name, export in (("their-onnx", "optimum"), ("their-openvino", "openvino"), ("their-llama", "llama")):
        export_of(export, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    study, store = load_study("theirs.yaml"), ArtifactStore(tmp_path / "artifacts")
    kinds = [build.adopt(variant.steps[0], store).kind for variant in list(study.variants.values())[1:]]
    assert kinds == ["onnx", "openvino", "model"]
