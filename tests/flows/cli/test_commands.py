"""The command as it is installed: what it prints, with what status it ends, and what it does not touch or import."""

import csv
import io
import json
import platform
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from slimline.flows.cli.__main__ import app
from slimline.flows.cli.options import BAD_INPUT
from slimline.flows.config.study import study_names
from slimline.storage.metrics.rows import RunRow
from slimline.storage.metrics.store import MetricsStore
from tests.flows.cli.answer import HEAVY, Slimline
from tests.storage.factories import NOON, round_row
from tests.storage.factories import measured as measured_row

# ---------------------------------------------------------------------------------------------------------------- help

WITH_EXAMPLE = (
    *("run", "table", "recommend", "comparison", "sql", "score", "lex", "doctor"),
    *(f"artifacts {command}" for command in ("list", "show", "verify", "gc")),
)
WITHOUT = ("", "artifacts")


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
        turns = [round_row(variant, number, pair_ratio=speed) for number in (1, 2)]
        metrics.append(turns)
        rows = [measured_row(variant, metric, value, study="mine", label=None) for metric, value in values.items()]
        metrics.append([row.replace(lo=speed, hi=speed) if row.metric == "samples_per_s" else row for row in rows])
    return metrics


def test_recommend_names_the_variant_to_ship(slimline: Slimline, measured: MetricsStore) -> None:
    answer = slimline("recommend")
    assert (answer.status, answer.err) == (0, "")
    assert answer.out.startswith(
        "ship fast: 4 times the speed of the baseline, ES drop 1 points against the baseline, 20 MB on disk"
    )
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


def test_comparison_prints_or_replaces_its_part_of_a_file(
    slimline: Slimline, measured: MetricsStore, tmp_path: Path
) -> None:
    printed = slimline("comparison", "--study", "mine")
    assert (printed.status, printed.err) == (0, "") and "| **original** | ours |" in printed.out
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- comparison -->\nold\n<!-- /comparison -->\nafter\n")
    assert slimline("comparison", "--into", str(page)).out == f"{page}\n"
    assert page.read_text() == f"before\n<!-- comparison -->\n{printed.out}<!-- /comparison -->\nafter\n"


def test_comparison_refuses_a_file_without_a_place_for_it(
    slimline: Slimline, measured: MetricsStore, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing")
    answer = slimline("comparison", "--into", str(page))
    assert answer.status == BAD_INPUT and "into" in answer.err and "<!-- comparison -->" in answer.err
    assert page.read_text() == "nothing"
    missing = slimline("comparison", "--into", str(tmp_path / "none.md"))
    assert missing.status == BAD_INPUT and "none.md" in missing.err


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
    now, kept = peaks["now"], peaks["kept"]
    assert min(now["fp32_gflops"], now["int8_gops"], now["read_gb_s"]) > 0
    assert kept == now and now["least_load"] is not None and peaks["busy"] in (True, False)
    file = Path(peaks["file"])
    assert file.parent == home / "peaks" and json.loads(file.read_text()) == kept
    assert not answer.imported & HEAVY

    file.write_text(json.dumps(kept | {"read_gb_s": 1e6}))
    text = slimline("doctor", "--peaks")
    assert text.status == 0 and "kept         read 1000000.0 GB/s" in text.out
    assert "now          read 1000000.0" not in text.out and "the best of 2" in text.out


def test_local_is_the_host_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def refuse(*arguments: object) -> None:
        asked.extend(arguments)
        raise LookupError("nothing measured")

    monkeypatch.setattr("slimline.storage.queries.results.host_rows", refuse)
    runner = CliRunner()
    assert runner.invoke(app, ["recommend", "--host", "local"]).exit_code == BAD_INPUT
    assert asked[-1] == platform.node()
