"""`slimline run`: build, measure, tell."""

from __future__ import annotations

import typer

from slimline.flows.cli.options import Hosts, Json, Rounds, Samples, StudyName, Variants, chosen_study
from slimline.flows.cli.table import TableFormat, print_table
from slimline.storage.paths import home
from slimline.storage.stores import metrics_store

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
    chosen = chosen_study(study, variants, rounds, samples, host)
    home().mkdir(parents=True, exist_ok=True)  # before Prefect opens its database there
    from slimline.dashboards.reports.recommendation import recommendations
    from slimline.flows.cli.flow_runner import run_benchmark

    outcome = run_benchmark(chosen)
    if outcome.run:
        print_table(None, outcome.run, TableFormat.JSON if as_json else TableFormat.TEXT)
        if not as_json:
            typer.echo()
            typer.echo("\n".join(recommendations(metrics_store(), outcome.run, "text")), nl=False)
    for variant, reason in outcome.failed.items():
        typer.echo(f"failed: {variant}: {reason}", err=True)
    if outcome.failed:
        raise typer.Exit(1)
