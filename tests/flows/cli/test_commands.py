"""The command as it is installed: what it prints, with what status it ends, and what it does not touch or import."""

import csv
import io
import json
import platform
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
from typer.testing import CliRunner

from slimline.flows.cli.__main__ import app
from slimline.flows.cli.options import BAD_INPUT
from slimline.flows.config.study import study_names
from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore, Provenance
from slimline.storage.metrics.rows import MeasurementRow, RunRow
from slimline.storage.metrics.store import MetricsStore
from slimline.tasks.data.lexer import lex_line
from tests.command import run_command

HEAVY = {"torch", "transformers", "prefect", "datasets", "onnxruntime"}
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


class Answer(NamedTuple):
    """What a command did: exit status, what it printed, and the packages it imported."""

    status: int
    out: str
    err: str
    imported: set[str]


Slimline = Callable[..., Answer]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def slimline(home: Path, monkeypatch: pytest.MonkeyPatch) -> Slimline:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")

    def run(*arguments: str | Path) -> Answer:
        finished = run_command(*map(str, arguments), home=home, check=False)
        lines = finished.stderr.splitlines(keepends=True)
        imports = [line for line in lines if line.startswith("import time:")]
        packages = {line.rpartition("|")[2].strip().partition(".")[0] for line in imports}
        messages = "".join(line for line in lines if not line.startswith("import time:"))
        return Answer(finished.returncode, finished.stdout, messages, packages)

    return run


# ---------------------------------------------------------------------------------------------------------------- help

WITH_EXAMPLE = ("run", "table", "recommend", "sql", "score", "lex", "doctor", "artifacts show")
WITHOUT = ("", "artifacts", "artifacts list", "artifacts verify", "artifacts gc")


@pytest.mark.parametrize("command", (*WITH_EXAMPLE, *WITHOUT))
def test_help(slimline: Slimline, home: Path, command: str) -> None:
    answer = slimline(*command.split(), "--help")
    assert (answer.status, answer.err) == (0, "")
    assert f"{command} [" in answer.out or f"{command} COMMAND" in answer.out
    assert (f": slimline {command} " in answer.out) == (command in WITH_EXAMPLE)
    assert "slimline" in answer.imported and not answer.imported & HEAVY
    assert not home.exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["tabel"], "'tabel'"), (["table", "--format", "pdf"], "'text', 'md', 'csv', 'json', 'html', 'latex'")],
)
def test_a_wrong_command_or_option_is_named(slimline: Slimline, arguments: list[str], named: str) -> None:
    answer = slimline(*arguments)
    assert answer.status == 2
    assert named in answer.err


# --------------------------------------------------------------------------------------------------------------- score


@pytest.fixture
def scored(tmp_path: Path) -> tuple[Path, Path]:
    """Four samples whose similarities are 100, 75, 0 and 100, and of which the first and the last match exactly."""
    answers, predictions = tmp_path / "answers.json", tmp_path / "predictions.txt"
    targets = ["x = 1", "aaac", "y", "z = <NUM_LIT:0>"]
    answers.write_text("".join(json.dumps({"input": "", "gt": target}) + "\n" for target in targets))
    predictions.write_text("  x = 1\naaab\n\nz = 0\n")
    return answers, predictions


def test_score_equals_what_is_computed_by_hand(slimline: Slimline, scored: tuple[Path, Path]) -> None:
    text = slimline("score", "--answers", scored[0], "--predictions", scored[1])
    assert (text.status, text.out, text.err) == (0, "Edit sim: 68.75, EM: 50.0 (4 samples)\n", "")
    assert not text.imported & HEAVY
    as_json = slimline("score", "--answers", scored[0], "--predictions", scored[1], "--json")
    assert json.loads(as_json.out) == {"es": 68.75, "em": 50.0, "samples": 4}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"gt": "x"}\n' * 3, "{answers} has 3"),
        ('{"gt": "x"}\n\nx\n\n', "{answers}:2: "),
        ('{"gt": "x"}\n{"gt": 3}\n{"gt": "x"}\n{"gt": "x"}\n', "{answers}:2: "),
        (None, "No such file or directory: '{answers}'"),
    ],
)
def test_files_that_cannot_be_scored_are_refused(
    slimline: Slimline, scored: tuple[Path, Path], content: str | None, reason: str
) -> None:
    answers, predictions = scored
    answers.unlink()
    if content is not None:
        answers.write_text(content)
    answer = slimline("score", "--answers", answers, "--predictions", predictions)
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert reason.format(answers=answers) in answer.err


# ----------------------------------------------------------------------------------------------------------------- lex


def test_lex_prints_a_line_a_file(slimline: Slimline, home: Path, tmp_path: Path) -> None:
    sources = {
        "good.py": b"import os\n\nx = 1  # note\n",
        "broken.py": b"def f(:\n  '''",
        "latin.py": b"x = '\xe9'",
        "empty.py": b"",
    }
    for name, source in sources.items():
        (tmp_path / name).write_bytes(source)
    answer = slimline("lex", *(tmp_path / name for name in sources))
    assert answer.status == 0
    good = "<s> import os <EOL> x = <NUM_LIT:1> </s>"
    assert answer.out.splitlines() == [good, "<s> </s>", "<s> </s>", "<s> </s>"]
    assert good == lex_line(sources["good.py"].decode())
    complaints = [line.partition(": ") for line in answer.err.splitlines()]
    assert [Path(path).name for path, _, _ in complaints] == ["broken.py", "latin.py", "empty.py"]
    assert [words in line for (_, _, line), words in zip(complaints, ("parse", "utf-8", "no code"), strict=True)]
    assert not answer.imported & HEAVY and not home.exists()


def test_lex_refuses_a_missing_file_before_it_prints(slimline: Slimline, tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text("x = 1\n")
    answer = slimline("lex", tmp_path / "good.py", tmp_path / "none.py")
    assert (answer.status, answer.out) == (2, "")
    assert answer.err == f"error: FILE: {tmp_path / 'none.py'} is not a file\n"


# ----------------------------------------------------------------------------------------------------------------- sql


@pytest.mark.parametrize("form", ["text", "md", "csv", "json"])
def test_sql_answers_from_the_published_figures(slimline: Slimline, home: Path, form: str) -> None:
    answer = slimline("sql", "from published order by host, variant", "--format", form)
    assert (answer.status, answer.err) == (0, "")
    assert READERS[form](answer.out) == [
        ("delftblue", "original", "462.26", "14.5"),
        ("delftblue", "pruned", "240.52", "9.0"),
        ("delftblue", "quantized", "260.39", "0.5"),
        ("laptop", "onnx", "311.75", "9.0"),
        ("laptop", "original", "462.26", "14.5"),
        ("laptop", "pruned", "240.52", "9.0"),
    ]
    assert not answer.imported & HEAVY and not home.exists()


SHOWN = ("host", "variant", "disk_mb", "em")


def columns(head: list[str], rows: list[list[str]]) -> list[tuple[str, ...]]:
    names = [name.strip() for name in head]
    found = [dict(zip(names, (cell.strip() for cell in row), strict=True)) for row in rows]
    return [tuple(number(row[name]) for name in SHOWN) for row in found]


def number(cell: object) -> str:
    """For people figures have four digits: enough to tell these apart."""
    try:
        return {"462.3": "462.26", "240.5": "240.52", "260.4": "260.39", "311.8": "311.75", "9": "9.0"}[str(cell)]
    except KeyError:
        return str(cell)


def read_text(out: str) -> list[tuple[str, ...]]:
    head, _, *lines = out.splitlines()
    starts = [name.start() for name in re.finditer(r"\S+", head)]
    cut = [slice(*ends) for ends in zip(starts, [*starts[1:], None], strict=True)]
    return columns(head.split(), [[line[place] for place in cut] for line in lines])


def read_markdown(out: str) -> list[tuple[str, ...]]:
    head, rule, *rows = [line.strip().strip("|").split("|") for line in out.splitlines()]
    assert {cell.strip() for cell in rule} == {"---"}
    return columns(head, rows)


def read_csv(out: str) -> list[tuple[str, ...]]:
    head, *rows = csv.reader(io.StringIO(out))
    return columns(head, rows)


def read_json(out: str) -> list[tuple[str, ...]]:
    return [tuple(str(row[name]) for name in SHOWN) for row in json.loads(out)]


READERS = {"text": read_text, "md": read_markdown, "csv": read_csv, "json": read_json}


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("INSERT INTO published (host) VALUES ('x')", "INSERT"),
        ("DROP VIEW measurements", "DROP"),
        ("COPY published TO '{target}'", "COPY"),
        ("ATTACH '{target}'", "ATTACH"),
        ("SET enable_external_access = true", "SET"),
        ("SELECT 1; SELECT 2", "2 statements"),
        ("SELECT * FROM read_csv('/etc/passwd')", "disabled"),
    ],
)
def test_sql_refuses_what_does_more_than_read(
    slimline: Slimline, home: Path, tmp_path: Path, query: str, reason: str
) -> None:
    target = tmp_path / "stolen.csv"
    answer = slimline("sql", query.format(target=target))
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("error: ") and reason in answer.err
    assert "Traceback" not in answer.err and "root:" not in answer.err
    assert not target.exists() and not home.exists()


# --------------------------------------------------------------------------------------------------------------- table


def test_table_of_an_empty_store_says_what_to_do(slimline: Slimline, home: Path) -> None:
    answer = slimline("table")
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("error: ") and str(home / "metrics") in answer.err
    assert "slimline run" in answer.err
    assert not answer.imported & HEAVY and not home.exists()


# ----------------------------------------------------------------------------------------------------------- recommend


@pytest.fixture
def measured(home: Path) -> MetricsStore:
    """A small and a fast variant beside the baseline, and one that has lost too much."""
    figures = {  # speed ratio, ES drop, disk MB
        "original": (1.0, 0.0, 30.0),
        "small": (2.0, 0.5, 8.0),
        "fast": (4.0, 1.0, 20.0),
        "broken": (9.0, 17.0, 5.0),
    }
    metrics = MetricsStore(home / "metrics")
    metrics.append([RunRow(run="r1", study="mine", host="box", started=NOON, status="ok")])
    for variant, (speed, drop, disk) in figures.items():
        values = {"speed_ratio": speed, "samples_per_s": speed, "es": 50 - drop, "es_drop": drop, "disk_mb": disk}
        values |= {"memory_mb": 5 * disk, "memory_over_base_mb": 4 * disk}
        metrics.append(
            [
                MeasurementRow(
                    run="r1", study="mine", host="box", variant=variant, time=NOON, metric=metric, value=value
                )
                for metric, value in values.items()
            ]
        )
    return metrics


def test_recommend_names_the_variant_to_ship(slimline: Slimline, measured: MetricsStore) -> None:
    answer = slimline("recommend")
    assert (answer.status, answer.err) == (0, "")
    assert answer.out.startswith("ship fast: 4 times the speed of the baseline, ES drop 1 points, 20 MB on disk")
    assert "\nnot broken: breaks ES drop at most 2 points: 17\n" in answer.out
    assert answer.out.endswith("study mine, run r1, host box\n")
    assert not answer.imported & HEAVY
    strict = slimline("recommend", "--max-es-drop", "0.6", "--max-memory-mb", "100", "--host", "box", "--json")
    found = json.loads(strict.out)
    assert (strict.status, found["winner"]) == (0, "small")
    assert found["constraints"] == {"max_es_drop": 0.6, "max_memory_mb": 100.0}


def test_recommend_ends_with_1_where_nothing_fits(slimline: Slimline, measured: MetricsStore) -> None:
    bounds = ("--max-es-drop", "2", "--max-disk-mb", "9", "--min-samples-per-s", "3")
    answer = slimline("recommend", "--study", "mine", "--run", "r1", *bounds)
    assert (answer.status, answer.err) == (1, "")
    assert answer.out.startswith("ship none\n")
    assert "it would take: samples/s at least 2; then small fits\n" in answer.out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--host", "bix"], "'bix'"),
        (["--study", "yours"], "'yours'"),
        (["--run", "r2"], "'r2'"),
        (["--max-disk-mb", "nan"], "max_disk_mb"),
    ],
)
def test_recommend_refuses_what_is_not_there(
    slimline: Slimline, measured: MetricsStore, arguments: list[str], reason: str
) -> None:
    answer = slimline("recommend", *arguments)
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("error: ") and reason in answer.err


def test_recommend_of_an_empty_store_says_what_to_do(slimline: Slimline, home: Path) -> None:
    answer = slimline("recommend")
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("error: ") and str(home / "metrics") in answer.err
    assert not home.exists()


# ----------------------------------------------------------------------------------------------------------------- run

ODD = "variants: {{original: {{recipe: [{{step: engine, name: torch}}]}}}}\n{more}\n"


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["smok"], ["study", "'smok'", *study_names()]),
        (["none.yaml"], ["'none.yaml'", *study_names()]),
        (["smoke", "--variants", "int8,prunned"], ["variants", "'prunned'", "quantized"]),
        (["smoke", "--host", "locl"], ["host", "'locl'", "delftblue, laptop, local"]),
        (["smoke", "--rounds", "0"], ["measuring.rounds", "0"]),
        (["smoke", "--samples", "-3"], ["data.samples", "-3"]),
        (["{home}.yaml", "hosts: [nowhere]"], ["'nowhere'", "delftblue, laptop, local"]),
        (["{home}.yaml", "measuring: {rounds: 0}\ndata: {samples: 0}"], ["measuring.rounds", "data.samples"]),
        (["{home}.yaml", "hosts: [}"], ["home.yaml", "line 2"]),
    ],
)
def test_a_wrong_run_is_refused_before_anything_is_computed(
    slimline: Slimline, home: Path, arguments: list[str], messages: list[str]
) -> None:
    study, *options = arguments
    if study == "{home}.yaml":
        path = home.with_suffix(".yaml")
        path.write_text(ODD.format(more=options.pop()))
        study = str(path)
    answer = slimline("run", study, *options)
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("error: ") and "Traceback" not in answer.err
    assert all(message in answer.err for message in messages)
    assert not answer.imported & HEAVY and not home.exists()


# ----------------------------------------------------------------------------------------------------------- artifacts


class Published(NamedTuple):
    """A model, the graph made of it, and a slice that nothing was made of."""

    model: ArtifactRef
    graph: ArtifactRef
    slice_: ArtifactRef


@pytest.fixture
def published(home: Path, tmp_path: Path) -> Published:
    store = ArtifactStore(home / "artifacts")

    def publish(kind: str, step: str, inputs: list[ArtifactRef]) -> ArtifactRef:
        directory = tmp_path / kind
        directory.mkdir()
        (directory / f"{kind}.bin").write_bytes(kind.encode() * 1000)
        (directory / "config.json").write_text("{}")
        provenance = Provenance(step={"step": step}, inputs=inputs, versions={}, host="box", created=NOON, seconds=1.0)
        return store.publish(directory, kind, provenance)

    model = publish("model", "fine-tune", [])
    return Published(model, publish("onnx", "export-onnx", [model]), publish("slice", "data", []))


def test_artifacts_are_listed_and_shown(slimline: Slimline, home: Path, published: Published) -> None:
    text = slimline("artifacts", "list")
    assert (text.status, text.err) == (0, "")
    lines = [line.split() for line in text.out.splitlines()]
    made = [("fine-tune", published.model), ("export-onnx", published.graph), ("data", published.slice_)]
    assert [(line[-1], line[0]) for line in lines] == [(step, str(ref)) for step, ref in made]
    assert lines[0][1:5] == ["0.01", "MB", "2026-11-01", "12:00"]
    listed = json.loads(slimline("artifacts", "list", "--json").out)
    assert [(one["step"], one["ref"], one["size"], one["files"]) for one in listed] == [
        (step, str(ref), 1000 * len(ref.kind) + 2, 2) for step, ref in made
    ]
    shown = json.loads(slimline("artifacts", "show", f"onnx:{published.graph.digest[:6]}").out)
    assert shown["ref"] == published.graph.model_dump()
    assert [file["path"] for file in shown["files"]] == ["config.json", "onnx.bin"]
    assert (Path(shown["path"]) / "onnx.bin").read_bytes() == b"onnx" * 1000
    assert shown["provenance"]["inputs"] == [published.model.model_dump()]
    assert shown["provenance"]["step"] == {"step": "export-onnx"}


@pytest.mark.parametrize("reference", ["model:0000", "dataset:ab", "No such"])
def test_an_unknown_artifact_is_refused(slimline: Slimline, published: Published, reference: str) -> None:
    answer = slimline("artifacts", "show", reference)
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("error: ") and f"{reference!r}" in answer.err
    assert "kind:digest" in answer.err or str(published.model) in answer.err


def test_a_damaged_artifact_is_found_and_named(slimline: Slimline, home: Path, published: Published) -> None:
    whole = slimline("artifacts", "verify")
    assert (whole.status, whole.out, whole.err) == (0, "3 of 3 artifacts are whole\n", "")
    file = ArtifactStore(home / "artifacts").path(published.model) / "model.bin"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    damaged = slimline("artifacts", "verify")
    assert (damaged.status, damaged.out) == (1, "2 of 3 artifacts are whole\n")
    assert len(damaged.err.splitlines()) == 1
    assert all(words in damaged.err for words in (str(published.model), "model.bin: expected SHA-256", "found"))


def test_gc_keeps_what_the_newest_run_measured_and_was_made_of(
    slimline: Slimline, home: Path, published: Published
) -> None:
    used = MeasurementRow(
        run="r1",
        study="mine",
        host="box",
        variant="onnx",
        metric="es",
        value=1.0,
        time=NOON,
        artifact=published.graph.digest,
    )
    metrics = MetricsStore(home / "metrics")
    metrics.append([RunRow(run="r1", study="mine", host="box", started=NOON, status="ok")])
    metrics.append([used])
    store = ArtifactStore(home / "artifacts")
    dry = slimline("artifacts", "gc", "--keep-hours", "0", "--dry-run")
    assert (dry.status, dry.out) == (0, f"would remove {published.slice_}\n1 artifacts would go\n")
    assert set(store.list()) == set(published)
    real = slimline("artifacts", "gc", "--keep-hours", "0")
    assert (real.status, real.out) == (0, f"removed {published.slice_}\n1 artifacts removed\n")
    assert store.list() == [published.model, published.graph]


def test_an_empty_store_has_no_artifacts(slimline: Slimline, home: Path) -> None:
    assert json.loads(slimline("artifacts", "list", "--json").out) == []
    assert slimline("artifacts", "verify").out == "0 of 0 artifacts are whole\n"
    assert slimline("artifacts", "gc", "--keep-hours", "0", "--dry-run").out == "0 artifacts would go\n"
    assert not home.exists()


# -------------------------------------------------------------------------------------------------------------- doctor


def test_doctor_describes_the_machine(slimline: Slimline, home: Path) -> None:
    as_json = slimline("doctor", "--json")
    described = json.loads(as_json.out)
    assert (as_json.status, as_json.err) == (0, "")
    assert {"cpu", "cores", "threads", "memory_mb", "isa", "os", "python", "versions", "warnings"} <= set(described)
    assert described["threads"] >= 1 and described["memory_mb"] > 100 and "torch" in described["versions"]
    text = slimline("doctor")
    assert (text.status, text.err) == (0, "")
    keys = [line.split()[0] for line in text.out.splitlines()]
    assert keys[: len(described) - 1] == [key for key in described if key != "warnings"]
    assert set(keys[len(described) - 1 :]) == {"slow"}
    assert not text.imported & HEAVY and not home.exists()


def test_doctor_measures_peaks_where_asked_and_keeps_them(slimline: Slimline, home: Path) -> None:
    answer = slimline("doctor", "--peaks", "--json")
    assert answer.status == 0
    peaks = json.loads(answer.out)["peaks"]
    assert min(peaks["fp32_gflops"], peaks["int8_gops"], peaks["read_gb_s"]) > 0
    assert json.loads((home / "peaks" / f"{peaks['fingerprint']}.json").read_text()) == peaks
    assert not answer.imported & HEAVY


# --------------------------------------------------------------------------------------------------------- checkpoints


def edit(directory: Path, **fields: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


DAMAGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "no directory": (shutil.rmtree, ["config.json", "GPT-2 checkpoint directory"]),
    "no config": (lambda at: (at / "config.json").unlink(), ["base.directory", "config.json"]),
    "config not JSON": (lambda at: cut(at / "config.json", 20), ["config.json", "not JSON"]),
    "config a list": (lambda at: (at / "config.json").write_text("[]"), ["config.json", "list", "object"]),
    "another model": (lambda at: edit(at, model_type="bert"), ["model_type", "'bert'", "allowed", "'gpt2'"]),
    "heads that do not divide": (lambda at: edit(at, n_head=5), ["n_head", "5", "divisor"]),
    "more layers": (lambda at: edit(at, n_layer=3), ["model.safetensors", "transformer.h.2.attn.c_attn.weight"]),
    "another width": (lambda at: edit(at, vocab_size=99), ["model.safetensors", "transformer.wte.weight"]),
    "no weights": (lambda at: (at / "model.safetensors").unlink(), ["model.safetensors", "missing"]),
    "cut weights": (lambda at: cut(at / "model.safetensors", 90_000), ["model.safetensors", "truncated"]),
    "cut header": (lambda at: cut(at / "model.safetensors", 90), ["model.safetensors", "truncated"]),
    "no tokenizer": (lambda at: [path.unlink() for path in at.glob("tokenizer*")], ["tokenizer.json"]),
    "cut tokenizer": (lambda at: cut(at / "tokenizer.json", 90), ["tokenizer.json"]),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tasks.tiny import write_model

    return write_model(tmp_path_factory.mktemp("checkpoints") / "whole")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_checkpoint_is_no_base(checkpoint: Path, tmp_path: Path, damage: str) -> None:
    from slimline.tasks.models.bases import make_base
    from slimline.tasks.specs import PathBase

    directory, target = tmp_path / "given", tmp_path / "made"
    shutil.copytree(checkpoint, directory)
    harm, words = DAMAGES[damage]
    harm(directory)
    target.mkdir()
    with pytest.raises(ValueError, match=r"(?s).") as refused:
        make_base(PathBase(directory=directory), tmp_path, target)
    assert all(word in str(refused.value) for word in (str(directory), *words))


def test_the_whole_checkpoint_is_a_base(checkpoint: Path, tmp_path: Path) -> None:
    from slimline.tasks.models.bases import make_base
    from slimline.tasks.specs import PathBase

    assert not make_base(PathBase(directory=checkpoint), tmp_path, tmp_path)["random_weights"]
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.parametrize(("engine", "file"), [("torch", "model.safetensors"), ("onnxruntime", "model.onnx")])
def test_an_engine_refuses_a_truncated_artifact(
    checkpoint: Path, tmp_path: Path, engine: Literal["torch", "onnxruntime"], file: str
) -> None:
    from slimline.tasks.engines.base import load_engine
    from slimline.tasks.export.onnx_export import export_onnx
    from slimline.tasks.models.checkpoint import CheckpointError
    from slimline.tasks.specs import Engine

    directory = tmp_path / "artifact"
    if engine == "torch":
        shutil.copytree(checkpoint, directory)
    else:
        directory.mkdir()
        export_onnx(checkpoint, directory)
    size = (directory / file).stat().st_size
    cut(directory / file, size // 2)
    with pytest.raises(CheckpointError) as refused:
        load_engine(Engine(name=engine), directory, threads=1)
    assert str(directory) in str(refused.value) and file in str(refused.value)


def test_local_is_the_host_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def refuse(*arguments: object) -> None:
        asked.extend(arguments)
        raise LookupError("nothing measured")

    monkeypatch.setattr("slimline.storage.queries.results.host_rows", refuse)
    runner = CliRunner()
    assert runner.invoke(app, ["recommend", "--host", "local"]).exit_code == BAD_INPUT
    assert asked[-1] == platform.node()
