"""`slimline table`: the result table of a run."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from slimline.flows.cli.options import exit_on_bad_input
from slimline.storage.stores import metrics_store

app = typer.Typer()


class TableFormat(StrEnum):
    """How a result table is printed."""

    TEXT = "text"
    MD = "md"
    CSV = "csv"
    JSON = "json"
    HTML = "html"
    LATEX = "latex"


@app.command(epilog="Examples: `slimline table` | `slimline table --study smoke --format latex`")
def table(
    study: Annotated[str | None, typer.Option(help="The newest run of this study.")] = None,
    run: Annotated[str | None, typer.Option(help="This run.")] = None,
    form: Annotated[TableFormat, typer.Option("--format", help="How to print it.")] = TableFormat.TEXT,
) -> None:
    """Print the result table of a run, by default the newest, beside the published figures."""
    from slimline.dashboards.reports.formats import render
    from slimline.storage.queries.results import result_rows

    with exit_on_bad_input():
        typer.echo(render(result_rows(metrics_store(), study, run), form.value), nl=False)
