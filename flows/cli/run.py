"""`slimline run`: build, measure, report."""

from __future__ import annotations

import typer

from slimline.flows.cli.options import (
    Hosts,
    Json,
    Rounds,
    Samples,
    StudyName,
    Variants,
    require_state,
    study_from_options,
)

app = typer.Typer()


@app.command(
    epilog="Examples: `slimline run` | `slimline run smoke --variants original,int8` | `slimline run my-study.yaml`"
)
def run(
    study: StudyName = "embedded",
    variants: Variants = None,
    rounds: Rounds = None,
    samples: Samples = None,
    host: Hosts = None,
    as_json: Json = False,
) -> None:
    """Build every variant of a study, measure it, and print the result table, and which variant to ship.

    What is built already is not built again.
    """
    chosen = study_from_options(study, variants, rounds, samples, host)
    require_state()
    from slimline.dashboards.reports.formats import render
    from slimline.dashboards.reports.recommendation import render_recommendation
    from slimline.flows.cli.flow_runner import run_benchmark

    outcome = run_benchmark(chosen)
    if outcome.results:
        typer.echo(render(outcome.rows, "json" if as_json else "text"), nl=False)
    if outcome.results and not as_json:
        typer.echo()
        typer.echo("\n".join(render_recommendation(each.recommendation, "text") for each in outcome.results), nl=False)
    for variant, reason in outcome.failed.items():
        typer.echo(f"failed: {variant}: {reason}", err=True)
    if outcome.failed:
        raise typer.Exit(1)
