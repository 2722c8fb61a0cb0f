"""What a study may say, and that everything else is refused at the door: field, value and what is allowed."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from slimline.flows.config.host import host_names, load_host
from slimline.flows.config.study import STUDIES, Study, StudyError, load_study, parse_study, study_names
from slimline.tasks.specs import Data, Engine, GroupLasso, Spec
from tests.command import SMOKE_DATA
from tests.flows.config.studies import (
    DYNAMIC,
    EXPORT,
    ONNX_INT8,
    ONNXRUNTIME,
    ORIGINAL,
    TORCH,
    lasso,
    recipe,
    refusal,
    study_of,
)

NAMES = ", ".join(
    [
        "codegpt-small-shape",
        "compression",
        "distillation",
        "embedded",
        "frontier",
        "group-lasso",
        "paper",
        "pretrain",
        "sister-forms",
        "smoke",
    ]
)
SPARSITY = "variants.odd.recipe.0.group-lasso.sparsity"
REFUSED = {  # name: content, field, value, what is allowed
    "sparsity of 0": (lasso(sparsity=0), SPARSITY, "0", "greater than 0"),
    "sparsity of 1": (lasso(sparsity=1), SPARSITY, "1", "less than 1"),
    "negative sparsity": (lasso(sparsity=-0.1), SPARSITY, "-0.1", "greater than 0"),
    "sparsity above 1": (lasso(sparsity=1.5), SPARSITY, "1.5", "less than 1"),
    "sparsity in words": (lasso(sparsity="much"), SPARSITY, "'much'", "a valid number"),
    "sparsity not a number": (lasso(sparsity=float("nan")), SPARSITY, "nan", "finite|less than 1"),
    "schedule beyond the end": (
        lasso(warmup_share=0.8, ramp_share=0.5),
        "variants.odd.recipe.0.group-lasso",
        "warmup_share + ramp_share is 1.3",
        "at most 1",
    ),
    "block of no rows": (lasso(block=[0, 1]), "variants.odd.recipe.0.group-lasso.block.0", "0", "greater than 0"),
    "endless training": (
        recipe({"step": "pretrain", "minutes": float("inf")}, TORCH),
        "variants.odd.recipe.0.pretrain.minutes",
        "inf",
        "a finite number",
    ),
    "onnx-int8 twice": (
        recipe(EXPORT, ONNX_INT8, ONNX_INT8, ONNXRUNTIME),
        "variants.odd: recipe.2",
        "onnx-int8 quantizes what is quantized already",
        "allowed: once",
    ),
    "dynamic-int8 twice": (
        recipe(DYNAMIC, DYNAMIC, TORCH),
        "variants.odd: recipe.1",
        "dynamic-int8 quantizes what is quantized already",
        "allowed: once",
    ),
    "dynamic-int8, then onnx-int8": (
        recipe(DYNAMIC, ONNX_INT8, ONNXRUNTIME),
        "variants.odd: recipe.1",
        "onnx-int8 quantizes what is quantized already",
        "allowed: once",
    ),
    "dynamic-int8, then onnx": (
        recipe(DYNAMIC, EXPORT, ONNX_INT8, ONNXRUNTIME),
        "variants.odd: recipe.1",
        "it would get a quantized checkpoint",
        "export-onnx takes a checkpoint",
    ),
    "onnx-int8 of a checkpoint": (
        recipe(ONNX_INT8, ONNXRUNTIME),
        "variants.odd: recipe.0",
        "it would get a checkpoint",
        "onnx-int8 takes a graph",
    ),
    "training of a graph": (
        recipe(EXPORT, {"step": "fine-tune"}, ONNXRUNTIME),
        "variants.odd: recipe.1",
        "it would get a graph",
        "fine-tune takes a checkpoint",
    ),
    "no engine": (
        recipe(DYNAMIC),
        "variants.odd: recipe",
        "ends with dynamic-int8",
        "engine (torch, onnxruntime, openvino, ctranslate2)",
    ),
    "empty recipe": (
        recipe(),
        "variants.odd: recipe",
        "is empty",
        "engine (torch, onnxruntime, openvino, ctranslate2)",
    ),
    "engine in the middle": (recipe(TORCH, DYNAMIC, TORCH), "variants.odd: recipe.0", "engine torch", "the last step"),
    "torch on a graph": (recipe(EXPORT, TORCH), "variants.odd: recipe.1", "torch", "checkpoint, not a graph"),
    "onnxruntime on a checkpoint": (
        recipe(ONNXRUNTIME),
        "variants.odd: recipe.0",
        "onnxruntime",
        "graph, not a checkpoint",
    ),
    "unknown engine": (
        recipe({"step": "engine", "name": "tflite"}),
        "variants.odd.recipe.0.engine.name",
        "'tflite'",
        "'openvino' or 'ctranslate2'",
    ),
    "unknown step": (recipe({"step": "prune"}, TORCH), "variants.odd.recipe.0", "'prune'", "'group-lasso'"),
    "unknown field of a study": (study_of(variant=3), "study", "'variant'", "baseline, control, hosts, measuring"),
    "unknown field of a step": (
        lasso(sparsty=0.5),
        "variants.odd.recipe.0.group-lasso",
        "'sparsty'",
        "sparsity, block",
    ),
    "unknown field of a part": (study_of(measuring={"round": 4}), "measuring", "'round'", "rounds, speed_samples"),
    "unknown label": (recipe(TORCH, label="best"), "variants.odd.label", "'best'", "'ours' or 'external'"),
    "graph after preparation": (study_of(prepare=[EXPORT]), "prepare", "leaves a graph", "starts from a checkpoint"),
    "quantized after preparation": (
        study_of(prepare=[{"step": "fine-tune"}, DYNAMIC]),
        "prepare",
        "leaves a quantized checkpoint",
        "starts from a checkpoint",
    ),
    "engine in the preparation": (study_of(prepare=[TORCH]), "prepare.0", "'engine'", "'pretrain', 'fine-tune'"),
    "preparation that does not fit": (
        study_of(prepare=[ONNX_INT8]),
        "prepare",
        "prepare.0: onnx-int8",
        "onnx-int8 takes a graph",
    ),
    "baseline that is no variant": (
        study_of(baseline="orignal"),
        "baseline",
        "'orignal'",
        "allowed: original",
    ),
    "no variants": (study_of(variants={}), "variants", "not 0", "at least 1"),
    "variant with a comma": (
        study_of(variants={"original": ORIGINAL, "a,b": ORIGINAL}),
        "variants",
        "'a,b'",
        "letters, digits",
    ),
    "no hosts": (study_of(hosts=[]), "hosts", "not 0", "at least 1"),
    "a thousand hosts and one": (study_of(hosts=["local"] * 1001), "hosts", "not 1001", "at most 1000"),
    "zero rounds": (study_of(measuring={"rounds": 0}), "measuring.rounds", "0", "greater than 0"),
    "too many rounds": (study_of(measuring={"rounds": 1001}), "measuring.rounds", "1001", "less than or equal to 1000"),
    "half a round": (study_of(measuring={"rounds": 2.5}), "measuring.rounds", "2.5", "a valid integer"),
    "negative samples": (study_of(data={"samples": -1}), "data.samples", "-1", "greater than 0"),
    "negative threads": (study_of(measuring={"threads": -1}), "measuring.threads", "-1", "greater than or equal to 0"),
    "too many beams": (
        study_of(measuring={"decoding": {"beams": 17}}),
        "measuring.decoding.beams",
        "17",
        "less than or equal to 16",
    ),
    "study name with a blank": (study_of(name="My study"), "name", "'My study'", "[a-z0-9-]*"),
    "study name that climbs": (study_of(name="../up"), "name", "'../up'", "[a-z0-9-]*"),
    "no study name": (study_of(name=""), "name", "''", "[a-z0-9-]*"),
    "unknown base": (study_of(base={"source": "magic"}), "base", "'magic'", "'hub', 'path', 'bundled', 'random'"),
    "unknown data": (study_of(data={"origin": {"source": "web"}}), "data.origin", "'web'", "'codexglue', 'hub'"),
    "unknown architecture": (
        study_of(base={"source": "random", "architecture": "gpt3"}),
        "base.random.architecture",
        "'gpt3'",
        "'codegpt-small', 'bundled' or 'tiny'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_with_field_value_and_what_is_allowed(name):
    content, field, value, allowed = REFUSED[name]
    (line,) = refusal(content).splitlines()
    assert line.startswith(f"{field}:")
    assert value in line.removeprefix(field)
    assert any(words in line for words in allowed.split("|"))


def test_every_problem_is_listed_at_once():
    content = study_of(measuring={"rounds": 0}, data={"samples": -1}, name="?")
    assert [line.partition(":")[0] for line in refusal(content).splitlines()] == [
        "name",
        "data.samples",
        "measuring.rounds",
    ]


# --------------------------------------------------------------------------------------------------------------- files

BODY = "variants: {original: {recipe: [{step: engine, name: torch}]}}\n"
FILES = {  # name: content, what the message says
    "list": (b"[1, 2]", "a study is a mapping of fields, found list"),
    "empty": (b"", "a study is a mapping of fields, found nothing"),
    "text": (b"run everything", "a study is a mapping of fields, found str"),
    "not YAML": (b"variants: [1", "expected ',' or ']', but got '<stream end>'"),
    "two documents": (b"a: 1\n---\nb: 2\n", "expected a single document"),
    "not UTF-8": (b"description: \xff\xfe", "can't decode byte 0xff in position 13"),
    "a NUL": (b"name: \x00", "special characters are not allowed"),
    "a Python object": (b"name: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    "a date": (
        f"description: 2024-12-24\n{BODY}".encode(),
        "description: YAML 1.1 reads 2024-12-24 as timestamp",
    ),
    "an octal number": (f"{BODY}\nseed: 010".encode(), "seed: YAML 1.1 reads 010 as int"),
    "minutes and seconds": (f"{BODY}\nseed: 1:30".encode(), "1:30 as int"),
    "a number with underscores": (f"{BODY}\nseed: 1_0".encode(), "1_0 as int"),
    "a word that is a truth value": (f"{BODY}\nseed: no".encode(), "no as bool"),
    "a variant called on": (
        b"variants: {on: {recipe: [{step: engine, name: torch}]}}",
        "line 1: YAML 1.1 reads on as bool",
    ),
    "half a character": (b'description: "\\ud800"', "half a character"),
    "more than a megabyte": (b"#" * 1_000_001, "1,000,001 bytes; allowed for a study: 1,000,000"),
    "nested too deeply": (b"[" * 800, "nested too deeply"),
    "a variant twice": (
        b"variants:\n"
        b"  original: {label: baseline, recipe: [{step: engine, name: torch}]}\n"
        b"  original: {recipe: [{step: engine, name: torch}]}\n",
        "'original'",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_study_is_refused_by_name(name, tmp_path):
    content, reason = FILES[name]
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(StudyError) as refused:
        load_study(str(path))
    assert str(refused.value).startswith(f"{path}: ")
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("embeded", "did you mean embedded?"), ("quick", "allowed"), ("", "allowed"), ("x" * 300, "allowed")],
)
def test_an_unknown_study_is_refused_with_what_comes_close(name, hint):
    with pytest.raises(StudyError) as refused:
        load_study(name)
    assert str(refused.value).startswith(f"study: {name!r} is unknown")
    assert f"allowed: {NAMES}, or the path of a .yaml file" in str(refused.value)
    assert hint in str(refused.value)


def test_a_missing_file_is_refused_by_name(tmp_path):
    path = str(tmp_path / "none.yaml")
    with pytest.raises(StudyError, match=r"the path of a \.yaml file") as refused:
        load_study(path)
    assert path in str(refused.value)


def test_an_unknown_host_is_refused_with_what_comes_close():
    for name, hint in (("locl", "did you mean local?"), ("../hosts/local", "local, or the path of a .yaml file")):
        with pytest.raises(StudyError) as refused:
            load_host(name)
        assert str(refused.value).startswith(f"host: {name!r} is unknown")
        assert "allowed: delftblue, laptop, local" in str(refused.value) and hint in str(refused.value)


# ------------------------------------------------------------------------------------------------------ shipped studies


def test_the_shipped_studies_are_those_documented():
    assert ", ".join(study_names()) == NAMES


def test_tests_share_the_data_of_the_smoke_study() -> None:
    assert load_study("smoke").data == Data.model_validate(SMOKE_DATA)


@pytest.mark.parametrize("name", study_names())
def test_a_shipped_study_loads_by_name_and_by_path(name):
    study = load_study(name)
    assert study == load_study(str(STUDIES / f"{name}.yaml"))
    assert (study.name, study.variants[study.baseline].label) == (name, "baseline")
    assert [load_host(host).name for host in study.hosts] == list(study.hosts)
    assert set(study.hosts) <= set(host_names())
    assert Study.model_validate_json(study.model_dump_json()) == study


def test_a_file_without_a_name_takes_that_of_the_file(tmp_path):
    (tmp_path / "my-own.yml").write_text(BODY)
    assert load_study(str(tmp_path / "my-own.yml")).name == "my-own"


# ----------------------------------------------------------------------------------------------------------- one study


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["int8"], ["original", "int8"]),
        (["int8", "pruned"], ["original", "pruned", "int8"]),
        (["original"], ["original"]),
        ([], ["original"]),
    ],
)
def test_only_keeps_the_baseline_and_the_order(names, kept):
    study = load_study("smoke")
    fewer = study.only(names)
    assert list(fewer.variants) == kept
    assert fewer.model_copy(update={"variants": study.variants}) == study
    assert parse_study(fewer.model_dump()) == fewer


def test_only_refuses_an_unknown_variant_with_what_comes_close():
    with pytest.raises(StudyError) as refused:
        load_study("smoke").only(["int8", "prunned"])
    expected = "variants: 'prunned' is unknown; did you mean pruned? allowed: original, pruned, quantized, onnx, int8"
    assert str(refused.value) == expected


def specs_of(value):
    if isinstance(value, Spec):
        yield value
        yield from specs_of([getattr(value, name) for name in type(value).model_fields])
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from specs_of(part)


def test_specs_are_frozen():
    found = [spec for name in study_names() for spec in specs_of(load_study(name))]
    assert {Study, GroupLasso, Engine} < {type(spec) for spec in found}
    for spec in found:
        for field in type(spec).model_fields:
            with pytest.raises(ValidationError, match="frozen"):
                setattr(spec, field, getattr(spec, field))


def test_nothing_here_reads_or_writes_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load_study("embedded")
    assert list(Path().iterdir()) == []


def test_other_directories_with_the_bundled_model_are_warned_of(tmp_path):
    study = load_study("smoke")
    assert study.cautions == []
    elsewhere = study.model_dump() | {"data": {"origin": {"source": "python-trees", "roots": [str(tmp_path)]}}}
    (caution,) = parse_study(elsewhere).cautions
    assert caution.startswith("data.origin.roots: ")
    assert parse_study(elsewhere | {"base": {"source": "random"}}).cautions == []


def test_the_control_is_a_variant_and_always_runs():
    content = load_study("smoke").model_dump()
    assert list(parse_study(content | {"control": "int8"}).only(["onnx"]).variants) == ["original", "onnx", "int8"]
    with pytest.raises(StudyError, match=r"control.*'longer'"):
        parse_study(content | {"control": "longer"})
