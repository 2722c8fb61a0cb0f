"""`slimline report`: a run as one page, and as pictures for documents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slimline.flows.cli.options import exit_on_bad_input
from slimline.storage.fs import replace_file
from slimline.storage.stores import artifact_store, metrics_store

app = typer.Typer()


@app.command(
    epilog="Examples: `slimline report --out report.html` | `slimline report --study compression --figures pictures`"
)
def report(
    study: Annotated[str | None, typer.Option(help="The newest run of this study.")] = None,
    run: Annotated[str | None, typer.Option(help="This run.")] = None,
    out: Annotated[Path | None, typer.Option(help="The page; by default `RUN.html`, none with --figures.")] = None,
    figures: Annotated[
        Path | None, typer.Option(help="A directory: figures as SVG and PNG, the table as LaTeX.")
    ] = None,
) -> None:
    """Write a run, by default the newest, as one HTML file that needs no network: tables, figures, lineage, recipe."""
    with exit_on_bad_input():
        from slimline.dashboards.reports.figures import write_pictures
        from slimline.dashboards.reports.html_report import report as html_page
        from slimline.storage.queries.results import result_rows

        rows = result_rows(metrics_store(), study, run)
        paths = write_pictures(rows, artifact_store(), figures) if figures else []
        if out or not figures:
            out = out or Path(f"{rows[0].run}.html")
            replace_file(out, html_page(rows, metrics_store(), artifact_store()).encode())
            paths.append(out)
    for path in paths:
        typer.echo(path)
