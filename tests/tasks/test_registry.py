"""The rows of the registry fit the specs and the functions that they name."""

import ast
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest

from slimline.tasks import specs
from slimline.tasks.forms import ENGINE_OF, KIND_OF, Form
from slimline.tasks.registry import (
    RECIPE_ROWS,
    Bound,
    StepRow,
    forms_run_by,
    recipe_step,
    row_of,
    user_row,
)
from tests.command import run_program

PATHS = {"model", "teacher", "data", "target", "work"}
OTHERS = (
    *(specs.Data(), specs.HubBase(), specs.PathBase(directory="."), specs.BundledBase(), specs.RandomBase()),
    specs.ScoreStep(engine=specs.Engine(name="torch"), decoding=specs.Decoding(), batch_size=1, threads=1),
)
ROWS = [*RECIPE_ROWS, *map(row_of, OTHERS)]


def subclasses(cls):
    return [each for child in cls.__subclasses__() for each in (child, *subclasses(child))]


def test_every_step_of_the_specs_has_a_row() -> None:
    named = {each for each in subclasses(specs.StepSpec) if each.__module__.startswith(specs.__name__)}
    named = {each for each in named if each.model_fields["step"].default}
    assert {row.spec for row in RECIPE_ROWS} == named - {specs.Engine, specs.UserStep}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.spec.__name__)
def test_a_row_names_a_function_with_as_many_parameters_as_it_gets(row: StepRow) -> None:
    name = row.function.partition(":")[2]
    code = ast.parse(Path(find_spec(row.module).origin).read_text("utf8"))  # to import it would import torch
    (function,) = (node for node in code.body if isinstance(node, ast.FunctionDef) and node.name == name)
    required = len(function.args.args) - len(function.args.defaults)
    gets = row.gets.split()
    assert required <= len(gets) <= len(function.args.args)
    assert set(gets) <= {"spec", *PATHS, *row.spec.model_fields} and "target" in gets


@pytest.mark.parametrize("row", RECIPE_ROWS, ids=lambda row: row.spec.__name__)
def test_a_recipe_step_takes_forms_and_makes_forms(row: StepRow) -> None:
    assert bool(row.takes) != bool(row.opens) and {*row.takes, *row.takes.values()} <= set(get_args(Form))
    assert all(row.kind_made(KIND_OF[taken]) == KIND_OF[made] for taken, made in row.takes.items())
    assert row.changes_form() or row.bound is None


def test_every_form_is_run_by_one_engine() -> None:
    engines = get_args(specs.EngineName)
    assert sorted(form for engine in engines for form in forms_run_by(engine)) == sorted(get_args(Form))
    assert set(ENGINE_OF.values()) == set(engines)


def test_what_recovers_by_distillation_stays_what_it_was() -> None:
    row = row_of(specs.Distill())
    assert (row.kind_made("model"), row.kind_made("packed")) == ("model", "packed")


def test_only_an_export_that_does_not_quantize_has_a_bound() -> None:
    bounds = {row.spec: row.bound for row in RECIPE_ROWS if row.bound}
    assert bounds == dict.fromkeys((specs.ExportOnnx, specs.ExportOpenvino, specs.ExportCtranslate2), Bound(1e-3))
    assert Bound().of(specs.ExportCtranslate2(), size=1.0) == 1e-3
    assert Bound().of(specs.ExportCtranslate2(), size=32_620.0) == pytest.approx(0.3262)
    assert Bound().of(specs.ExportCtranslate2(precision="int8"), size=1.0) is None


def test_the_host_matters_only_for_a_speedup() -> None:
    reads = row_of(specs.Slim(sparsity=0.5)).reads
    assert reads(specs.Slim(sparsity=0.5)) == "" != reads(specs.Slim(speedup=2.0))


def test_int8_depends_on_the_hosts_bits_unless_the_step_says_them() -> None:
    for spec in (specs.OnnxInt8, specs.OnnxStaticInt8, specs.OpenvinoInt8):
        assert row_of(spec()).reads(spec()) in ("7", "8")  # as this host needs
        assert row_of(spec()).reads(spec(weight_bits=7)) == "7"
    ctranslate2 = specs.ExportCtranslate2
    assert row_of(ctranslate2()).reads(ctranslate2()) == ""
    assert row_of(ctranslate2()).reads(ctranslate2(precision="int8", weight_bits=8)) == "8"


def test_the_registry_imports_nothing_heavy() -> None:
    program = Path(__file__).parent / "programs" / "print_imports.py"
    imported = set(json.loads(run_program(program, "slimline.tasks.registry").stdout))
    assert not imported & {"torch", "transformers", "onnxruntime", "openvino", "ctranslate2", "datasets", "pyarrow"}


# --------------------------------------------------------------------------------------------------- a user's own steps

MODULE = """
from __future__ import annotations
from pathlib import Path
from slimline.tasks.registry import recipe_step
from slimline.tasks.specs import StepSpec

class Mine(StepSpec):
    share: float = 0.5

def keep(spec: Mine, model: Path, target: Path): ...
@recipe_step(makes="graph")
def export(options: Mine, target: Path, data: Path, model: Path): ...
def other_parameter(spec: Mine, source: Path): ...
def no_spec(model: Path, target: Path): ...
def nothing(): ...
def unknown_annotation(spec: Theirs, model: Path): ...
def other_annotation(spec: Mine, target: Path[0]): ...
def no_target(spec: Mine, model: Path): ...
def keyword_only(spec: Mine, *, target: Path): ...
def others(spec: Mine, target: Path, *model: Path): ...
async def later(spec: Mine, target: Path): ...
def generator(spec: Mine, target: Path): yield
async def later_generator(spec: Mine, target: Path): yield
value = 3
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a user's module, another one in every test: Python imports a name once."""
    name = f"steps_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"broken_{name}.py").write_text("import json\njson.no_such_name\n")
    (tmp_path / f"ends_{name}.py").write_text("raise SystemExit(3)\n")
    (tmp_path / f"needs_{name}.py").write_text("import a_library_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_users_function_becomes_a_row(user_module: str) -> None:
    row = user_row(f"{user_module}:keep")
    assert (row.spec.__name__, row.gets, row.takes) == ("Mine", "spec model target", {"checkpoint": "checkpoint"})
    assert (row.module, row.reads(row.spec()), row.bound) == (user_module, "", None)
    assert row_of(specs.UserStep(step=f"{user_module}:keep")) is row
    row = user_row(f"{user_module}:export")
    assert (row.gets, row.takes) == ("spec target data model", {"checkpoint": "graph"})
    assert row.needs("data") and not row.needs("teacher") and row.kind_made("model") == "onnx"


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ("{}:kepe", "has no function kepe"),
        ("{}:value", "has no function value"),
        ("{}:Mine", "has no function Mine"),
        (
            "{}:other_parameter",
            "parameter source: pathlib.Path; allowed after the spec: model, teacher, data, target, work",
        ),
        ("{}:no_spec", "the first parameter is of <class 'pathlib.Path'>; allowed: a StepSpec of yours"),
        ("{}:nothing", "the first parameter is of None; allowed: a StepSpec of yours"),
        ("{}:other_annotation", "its parameters cannot be read: TypeError"),
        ("{}:no_target", "it has no parameter target"),
        ("{}:keyword_only", "parameter target: pathlib.Path; allowed after the spec: model, teacher, data, target"),
        ("{}:others", "parameter *model: pathlib.Path; allowed after the spec: model, teacher, data, target"),
        ("{}:later", "is a generator or async; allowed: an ordinary function"),
        ("{}:generator", "is a generator or async; allowed: an ordinary function"),
        ("{}:later_generator", "is a generator or async; allowed: an ordinary function"),
        ("sys:keep", "sys (not a file) has no function keep"),
        ("{}:unknown_annotation", "name 'Theirs' is not defined"),
        ("broken_{}:keep", "cannot be imported: AttributeError"),
        ("needs_{}:keep", "cannot be imported: ModuleNotFoundError: No module named 'a_library_that_is_missing'"),
        ("ends_{}:keep", "cannot be imported: SystemExit: 3"),
        ("no_{}:keep", "there is no module no_"),
        ("no_{}.deeper:keep", "there is no module no_"),
    ],
)
def test_what_is_not_a_step_is_refused_by_name(user_module: str, step: str, reason: str) -> None:
    name = step.format(user_module)
    with pytest.raises(ValueError) as refused:
        user_row(name)
    assert str(refused.value).startswith(f"step: {name!r}: ") and reason in str(refused.value)


@pytest.mark.parametrize("forms", [{"takes": "grph"}, {"makes": "grph"}])
def test_a_form_that_there_is_not_is_refused(forms: Any) -> None:
    with pytest.raises(ValueError, match=r"'grph' is not a form; allowed: checkpoint, "):
        recipe_step(**forms)
