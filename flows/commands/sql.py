"""`slimline sql`: every measurement there ever was."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from flows.commands.shared import refusing
from storage.opening import metrics_store

app = typer.Typer()


class SqlFormat(StrEnum):
    """How a query's answer is printed."""

    TEXT = "text"
    MD = "md"
    CSV = "csv"
    JSON = "json"


@app.command(epilog='Examples: `slimline sql "from versus_published"` | `slimline sql "show tables" --format json`')
def sql(
    query: Annotated[str, typer.Argument(help="One statement that reads; DuckDB's SQL.")],
    form: Annotated[SqlFormat, typer.Option("--format", help="How to print the answer.")] = SqlFormat.TEXT,
) -> None:
    """Query everything that was ever measured: runs, hosts, rounds, measurements, predictions, and the views."""
    with refusing():
        from storage.answers import render_answer

        typer.echo(render_answer(metrics_store().query(query), form.value), nl=False)
