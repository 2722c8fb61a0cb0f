"""`slimline comparison`: the published systems beside ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slimline.flows.cli.options import exit_on_bad_input
from slimline.storage.fs import replace_file
from slimline.storage.stores import metrics_store

BEGIN, END = "<!-- comparison -->", "<!-- /comparison -->"
app = typer.Typer()


@app.command(epilog="Examples: `slimline comparison` | `slimline comparison --study embedded --into page.md`")
def comparison(
    study: Annotated[str | None, typer.Option(help="The newest run of this study.")] = None,
    run: Annotated[str | None, typer.Option(help="This run.")] = None,
    into: Annotated[
        Path | None, typer.Option(help=f"A Markdown file: what is between {BEGIN} and {END} is replaced.")
    ] = None,
) -> None:
    """Compare a run, by default the newest, with what is published: as published, repaired, and why they differ."""
    from slimline.dashboards.reports.comparison import comparison as compare
    from slimline.storage.queries.results import result_rows

    with exit_on_bad_input():
        text = compare(result_rows(metrics_store(), study, run), metrics_store())
        if into is not None:
            replace_file(into, _replaced(into, text).encode())
    typer.echo(into if into is not None else text, nl=into is not None)


def _replaced(path: Path, text: str) -> str:
    """The content of a file with its comparison replaced.

    Raises:
        ValueError: it has no place for one.
    """
    content = path.read_text("utf-8")
    before, begin, rest = content.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"into: {path} has no place for it; allowed: a file with the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{text}{END}{after}"
