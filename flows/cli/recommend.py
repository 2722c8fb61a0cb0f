"""`slimline recommend`: which variant to ship."""

from __future__ import annotations

import platform
from typing import Annotated

import typer

from slimline.flows.cli.options import Json, exit_on_bad_input
from slimline.storage.stores import metrics_store

app = typer.Typer()


@app.command(
    epilog="Examples: `slimline recommend` | `slimline recommend --max-es-drop 1 --max-disk-mb 20` | "
    "`slimline recommend --study smoke --max-memory-mb 200 --min-samples-per-s 5 --json`"
)
def recommend(
    study: Annotated[str | None, typer.Option(help="The newest run of this study.")] = None,
    run: Annotated[str | None, typer.Option(help="This run.")] = None,
    host: Annotated[str | None, typer.Option(help="Where measured (`local`: here); needed if several.")] = None,
    max_es_drop: Annotated[
        float | None, typer.Option(help="ES points below the baseline; 2 without any constraint.")
    ] = None,
    max_em_drop: Annotated[float | None, typer.Option(help="EM points below the baseline.")] = None,
    max_memory_mb: Annotated[float | None, typer.Option(help="Peak resident memory, MB of 10^6 bytes.")] = None,
    max_disk_mb: Annotated[float | None, typer.Option(help="Size of the files, MB of 10^6 bytes.")] = None,
    min_samples_per_s: Annotated[float | None, typer.Option(help="Speed, end to end.")] = None,
    as_json: Json = False,
) -> None:
    """Name the variant to ship: the fastest of a run that surely keeps the constraints; and why the others lose.

    A constraint holds for the worse end of a 95 % interval. If speeds may be equal, the smaller variant wins.
    Without any constraint, ES may drop by 2 points. Exit status 1 if no variant fits.
    """
    from slimline.dashboards.reports.recommendation import render_recommendation
    from slimline.storage.queries.results import host_rows
    from slimline.tasks.analysis.recommendation import Constraints
    from slimline.tasks.analysis.recommendation import recommend as verdict

    with exit_on_bad_input():
        constraints = Constraints(max_es_drop, max_em_drop, max_memory_mb, max_disk_mb, min_samples_per_s)
        where = platform.node() if host == "local" else host
        found = verdict(host_rows(metrics_store(), study, run, where), constraints)
    typer.echo(render_recommendation(found, "json" if as_json else "text"), nl=False)
    if found.winner is None:
        raise typer.Exit(1)
