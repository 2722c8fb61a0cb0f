"""docs/architecture.md tells the truth: its example of a step of one's own runs as it is printed."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from slimline.flows.config.study import Study, StudyError, load_study, parse_study
from slimline.storage.artifacts.store import ArtifactStore
from slimline.storage.paths import BUNDLED
from slimline.tasks import build
from slimline.tasks.specs import BundledBase
from tests.command import ROOT, run_command, run_program

DOCUMENT = (ROOT / "docs" / "architecture.md").read_text("utf8")
PROGRAM = ROOT / "tests" / "tasks" / "programs" / "print_step_key.py"


@pytest.fixture
def study_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example's two files, as printed."""
    (module,), (study,) = (re.findall(rf"```{kind}\n(.*?)```", DOCUMENT, re.DOTALL) for kind in ("python", "yaml"))
    (tmp_path / "my_steps.py").write_text(module, "utf8")
    (tmp_path / "my-study.yaml").write_text(study, "utf8")
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path / "my-study.yaml"


@pytest.mark.e2e
@pytest.mark.long
def test_the_command_runs_the_study(study_file: Path, prepared_home: Path, tmp_path: Path) -> None:
    (command,) = re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)
    assert shlex.split(command) == ["slimline", "run", study_file.name]
    home = shutil.copytree(prepared_home, tmp_path / "home")
    rows = json.loads(run_command("run", str(study_file), "--rounds", "1", "--json", home=home).stdout)
    assert [(row["variant"], row["error"]) for row in rows] == [("original", None), ("shallow", None)]
    assert rows[1]["params_m"] < rows[0]["params_m"]


def test_the_example_builds_and_keeps_its_notes(study_file: Path, tmp_path: Path) -> None:
    study, store = load_study(str(study_file)), ArtifactStore(shutil.copytree(BUNDLED, tmp_path / "artifacts"))
    (base,) = store.list()
    assert study.base == BundledBase()
    made = store.provenance(build.apply_step(study.variants["shallow"].steps[0], base, store))
    assert made.step == {"step": "my_steps:keep_layers", "layers": 2}
    assert (made.inputs, made.notes["layers_before"], made.notes["layers"]) == ([base], 6, 2)
    assert len(made.notes["reference"]["logits"]) == 32


def test_an_edit_of_the_module_builds_again_and_a_comment_does_not(study_file: Path) -> None:
    def key() -> str:
        return run_program(PROGRAM, study_file, "shallow").stdout

    before, module = key(), study_file.with_name("my_steps.py")
    text = module.read_text("utf8")
    module.write_text(f"# a comment\n{text}", "utf8")
    assert key() == before
    module.write_text(text.replace("[: spec.layers]", "[-spec.layers :]"), "utf8")
    assert key() != before


def test_its_fields_are_checked_by_name(study_file: Path) -> None:
    content = load_study(str(study_file)).model_dump()
    recipe = content["variants"]["shallow"]["recipe"]
    for change, value, allowed in (
        ({"layers": 0}, "0", "greater than or equal to 1"),
        ({"layer": 2}, "'layer'", "layers"),
    ):
        content["variants"]["shallow"]["recipe"] = [{"step": "my_steps:keep_layers", **change}, *recipe[1:]]
        with pytest.raises(StudyError) as refused:
            parse_study(content)
        assert str(refused.value).startswith("variants.shallow.recipe.0")
        assert value in str(refused.value) and allowed in str(refused.value)


def test_an_order_with_it_needs_no_module(study_file: Path) -> None:
    study = load_study(str(study_file))
    elsewhere = study.model_dump_json().replace("my_steps", "module_that_is_not_here")
    received = Study.model_validate_json(elsewhere)
    assert received.model_dump_json() == elsewhere
    assert Study.model_validate_json(study.model_dump_json()) == study
    with pytest.raises(StudyError, match=r"variants\.shallow\.recipe\.0.*module_that_is_not_here"):
        parse_study(received.model_dump())
