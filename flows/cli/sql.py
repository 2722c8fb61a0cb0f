"""`slimline sql`: queries over everything that was ever measured."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimline.flows.cli.options import exit_on_bad_input, fail
from slimline.storage.fs import replace_file
from slimline.storage.stores import metrics_store

if TYPE_CHECKING:
    from slimline.storage.metrics.sandbox import Limits

app = typer.Typer()

INTERRUPTED = 130
DUCKDB = "duckdb"


class SqlFormat(StrEnum):
    """How a query's answer is printed."""

    TEXT = "text"
    MD = "md"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


@app.command(
    epilog='Examples: `slimline sql "from versus_published"` | `slimline sql --file queries.sql` | '
    '`slimline sql "from history" --format parquet --out history.parquet` | '
    "`slimline sql --export duckdb all.duckdb` | `slimline sql` (a prompt)"
)
def sql(
    query: Annotated[str | None, typer.Argument(help="One statement that reads; DuckDB's SQL.")] = None,
    file: Annotated[Path | None, typer.Option(help="A script: statements, each ended by a semicolon.")] = None,
    form: Annotated[SqlFormat, typer.Option("--format", help="How to print the answers.")] = SqlFormat.TEXT,
    out: Annotated[Path | None, typer.Option(help="Write the answers there; Parquet needs it.")] = None,
    export: Annotated[
        tuple[str, Path] | None,
        typer.Option(metavar="duckdb FILE", help="Write all tables and views as one file for any DuckDB client."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="The longest that a query may take.")] = 60.0,
) -> None:
    """Query everything that was ever measured: runs, hosts, rounds, measurements, predictions, and the views.

    Without a query: a script from standard input, or a prompt where that is a terminal. Queries only read; Ctrl-C
    ends one.
    """
    try:
        with exit_on_bad_input():
            from slimline.storage.metrics.sandbox import Limits

            _only_one({"QUERY": query, "--file": file, "--export": export})
            if export is not None:
                _export(*export)
            elif query is None and file is None and sys.stdin.isatty():
                _prompt(form, out, Limits(seconds))
            else:
                _answer(_statements(query, file), form, out, Limits(seconds))
    except KeyboardInterrupt:
        fail("the query was cancelled", status=INTERRUPTED)


def _only_one(given: dict[str, object]) -> None:
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise ValueError(f"{' and '.join(named)}: only one of them is allowed")


def _statements(query: str | None, file: Path | None) -> list[str]:
    if query is not None:
        return [query]
    from slimline.storage.metrics.sql_text import statements as split_statements

    return split_statements(file.read_text("utf8") if file else sys.stdin.read())


def _answer(statements: Sequence[str], form: SqlFormat, out: Path | None, limits: Limits) -> None:
    from slimline.dashboards.reports.query_answer import parquet, render_answer
    from slimline.storage.metrics.sandbox import ask

    if form is SqlFormat.PARQUET:
        if out is None or len(statements) != 1:
            raise ValueError("--format parquet: needs --out FILE, and exactly one statement")
        replace_file(out, parquet(ask(metrics_store().url, statements[0], limits)))
        return
    answers = []
    for statement in statements:
        answers.append(render_answer(ask(metrics_store().url, statement, limits), form.value))
        if out is None:
            typer.echo(answers[-1], nl=False)
    if out is not None:
        replace_file(out, "".join(answers).encode())


def _prompt(form: SqlFormat, out: Path | None, limits: Limits) -> None:
    if out is not None or form is SqlFormat.PARQUET:
        raise ValueError("--out and --format parquet need a query")
    from slimline.flows.cli.sql_shell import Prompt

    Prompt(metrics_store(), form.value, limits).run()


def _export(kind: str, file: Path) -> None:
    if kind != DUCKDB:
        raise ValueError(f"--export: {kind!r}, allowed: {DUCKDB}")
    from slimline.storage.metrics.export import export_duckdb

    for name, rows in export_duckdb(metrics_store(), file).items():
        typer.echo(f"{name:20} {rows:10} rows")
