"""The command and the prompt of SQL, and the answers' formats, over a small store."""

import json
import math
import re
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from typer.testing import CliRunner

from slimline.dashboards.reports.query_answer import parquet, render_answer
from slimline.flows.cli import sql_shell
from slimline.flows.cli.__main__ import app
from slimline.flows.cli.sql_shell import Prompt
from slimline.storage.metrics.catalog import END, START, relations, update_schema
from slimline.storage.metrics.sandbox import Limits
from slimline.storage.metrics.sql_text import is_complete, statements
from slimline.storage.metrics.store import MetricsStore
from tests.command import ROOT

DOCS = ROOT / "docs" / "sql.md"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIMLINE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def sql(*arguments, text=None):
    return CliRunner().invoke(app, ["sql", *arguments], input=text)


@pytest.mark.parametrize("how", ["file", "standard input"])
def test_a_script_is_answered_statement_by_statement_until_the_first_error(home, how):
    script = "SELECT 1 AS one; -- é;\n\nSELECT ';' AS two;\nSELECT\n  nope;\nSELECT 3 AS three;\n"
    Path("script.sql").write_text(script)
    ended = sql("--file", "script.sql", "--format", "csv") if how == "file" else sql("--format", "csv", text=script)
    assert ended.exit_code == 2
    assert ended.stdout == "one\n1\ntwo\n;\n"
    assert "LINE 5:   nope\n          ^" in ended.stderr


def test_an_answer_goes_to_a_file_also_as_parquet(home):
    assert sql("FROM published", "--format", "parquet", "--out", "p.parquet").exit_code == 0
    assert pq.read_table("p.parquet").num_rows == 6
    assert sql("SELECT 1 AS one", "--format", "csv", "--out", "one.csv").stdout == ""
    assert Path("one.csv").read_text() == "one\n1\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["SELECT 1", "--format", "parquet"], "--out"),
        (["SELECT INTERVAL 1 DAY", "--format", "parquet", "--out", "x"], "not for Parquet"),
        (["SELECT 1", "--file", "x.sql"], "QUERY and --file: only one"),
        (["--file", "absent.sql"], "absent.sql"),
        (["--export", "sqlite", "x"], "'sqlite'"),
        (["SELECT 1; SELECT 2"], "found 2 statements"),
        (["SELECT sleep_ms(100000)", "--seconds", "0.2"], "stopped after 0.2 s"),
    ],
)
def test_bad_input_ends_in_one_message(home, arguments, reason):
    ended = sql(*arguments)
    assert ended.exit_code == 2
    assert reason in ended.stderr
    assert "Traceback" not in ended.output


def test_an_interrupt_ends_the_query(home, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("slimline.storage.metrics.sandbox.ask", interrupted)
    ended = sql("SELECT 1")
    assert (ended.exit_code, ended.stderr) == (130, "error: the query was cancelled\n")


def test_an_export_has_every_table_and_view_and_says_what_they_are(home):
    assert sql("--export", "duckdb", "all.duckdb").exit_code == 0
    with duckdb.connect("all.duckdb", read_only=True) as plain:
        exported = plain.execute("SELECT table_name, comment FROM duckdb_tables()").fetchall()
        assert dict(exported) == {relation.name: relation.doc for relation in relations()}
        assert plain.execute("SELECT count(*) FROM published").fetchone() == (6,)
        (comment,) = plain.execute(
            "SELECT comment FROM duckdb_columns() WHERE table_name = 'runs' AND column_name = 'noise_floor'"
        ).fetchone()
        assert comment.startswith("Relative spread")
        assert plain.execute("SELECT tags['storage_version'] FROM duckdb_databases() WHERE path IS NOT NULL").fetchone()
    before = Path("all.duckdb").read_bytes()
    assert "exists already" in sql("--export", "duckdb", "all.duckdb").stderr
    assert Path("all.duckdb").read_bytes() == before
    assert sorted(path.name for path in Path().iterdir()) == ["all.duckdb"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        (" ; -- nothing\n;", []),
        ("SELECT 1", ["SELECT 1"]),
        ("SELECT ';' ;\nSELECT 2;", ["SELECT ';' ", "\nSELECT 2".replace("\n", "\n")]),
        ('SELECT $$;$$; /* ; */ SELECT "ü;"', ["SELECT $$;$$", ' /* ; */ SELECT "ü;"']),
    ],
)
def test_a_script_is_taken_apart_at_its_semicolons(text, found):
    assert [each.lstrip("\n") for each in statements(text)] == [each.lstrip("\n") for each in found]


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("SELECT 1", False),
        ("SELECT 1;", True),
        ("SELECT 1; -- x", True),
        ("SELECT ';", False),
        ("", False),
        (";a", False),
    ],
)
def test_input_goes_on_until_its_semicolon(text, whole):
    assert is_complete(text) is whole


def typed(text, store, capsys):
    with create_pipe_input() as keys:
        keys.send_text(text)
        with create_app_session(input=keys, output=DummyOutput()):
            Prompt(store, "csv", Limits(seconds=600)).run()
    return capsys.readouterr()


def test_the_prompt_answers_and_remembers(home, metrics_store, capsys):
    text = "SELECT 40\r+ 2 AS answer;\r.tables\r.schema runs\r.schema nope\r.nonsense\rSELECT nope;\r.help\r\x04"
    printed = typed(text, metrics_store, capsys)
    assert "answer\n42\n" in printed.out
    assert "versus_published     view" in printed.out
    assert re.search(r"noise_floor +double +Relative spread", printed.out)
    assert "Ctrl-C stops a query" in printed.out
    assert "'nope' is not a table or view; allowed: runs, " in printed.err
    assert "'.nonsense' is not a command; allowed: .tables, .schema, .help, .quit" in printed.err
    assert "LINE 1: SELECT nope" in printed.err
    assert "+SELECT 40\n++ 2 AS answer;" in (home / "sql_history").read_text()
    assert "answer\n42\n" in typed("\x1b[A" * 7 + "\r.quit\r", metrics_store, capsys).out


def test_the_prompt_survives_an_interrupt_and_ends_on_quit(home, metrics_store, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sql_shell, "ask", interrupted)
    printed = typed("SELECT\x03SELECT 1;\r.quit\r", metrics_store, capsys)
    assert printed.err == "error: the query was cancelled\n"


def test_the_prompt_completes_names(home, metrics_store, capsys, monkeypatch):
    completers = []
    session = sql_shell.PromptSession
    monkeypatch.setattr(
        sql_shell, "PromptSession", lambda **more: completers.append(more["completer"]) or session(**more)
    )
    typed("\x04", metrics_store, capsys)
    assert {"versus_published", "noise_floor", "SELECT", ".schema"} <= set(completers[0].words)


@pytest.fixture
def metrics_store(home):
    return MetricsStore(home / "metrics")


def test_answers_hold_what_python_cannot_and_nothing_that_a_terminal_obeys(metrics_store):
    everything = metrics_store.query("FROM test_all_types()")
    for form in ("text", "md", "csv", "json"):
        assert render_answer(everything, form)
    hostile = metrics_store.query("SELECT e'\\x1b[31mred\\nline' AS \"a\\x1b[0m\", 'nan'::DOUBLE AS n")
    assert "\x1b" not in render_answer(hostile, "text")
    (found,) = json.loads(render_answer(hostile, "json"))
    assert found["n"] is None
    assert math.isnan(hostile.column("n")[0].as_py())
    with pytest.raises(ValueError, match="not for Parquet"):
        parquet(metrics_store.query("SELECT INTERVAL 1 DAY AS day"))


def test_the_documented_schema_is_todays():
    page = DOCS.read_text("utf8")
    assert START in page
    assert END in page
    assert update_schema(page) == page, "run: .venv/bin/python -m slimline.storage.metrics.catalog docs/sql.md"


def test_every_column_is_described():
    assert all(relation.doc and all(column.doc for column in relation.columns) for relation in relations())
