"""`slimline run`: build, measure, tell."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.commands.shared import Json, refusing
from flows.commands.table import TableFormat, print_table
from storage import home
from storage.opening import metrics_store

app = typer.Typer()


@app.command(
    epilog="Examples: `slimline run` | `slimline run smoke --variants original,int8` | `slimline run my-study.yaml`"
)
def run(
    study: Annotated[str, typer.Argument(help="A study's name, or the path of a YAML file.")] = "embedded",
    variants: Annotated[str | None, typer.Option(help="Only these, comma-separated; the baseline always runs.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Interleaved passes over all variants.")] = None,
    samples: Annotated[int | None, typer.Option(help="Line-completion samples.")] = None,
    host: Annotated[
        list[str] | None, typer.Option(help="Where to measure: a name, or a YAML file; repeat it for several.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Build every variant of a study, measure it, and print the result table, and which variant to ship.

    What is built already is not built again.
    """
    with refusing():
        from flows.study import load_study

        names = [name.strip() for name in variants.split(",")] if variants is not None else None
        chosen = load_study(study).changed(names, rounds, samples, host)
    home().mkdir(parents=True, exist_ok=True)  # before Prefect opens its database there
    from flows.running import run_benchmark
    from storage.verdicts import recommendations

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
