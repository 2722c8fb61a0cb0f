"""`slimline run`: build, measure, tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.shared import Json, metrics_store, refusing
from flows.commands.table import TableFormat, print_table
from storage import home

if TYPE_CHECKING:
    from flows.study import Study

app = typer.Typer()


@app.command(
    epilog="Examples: `slimline run` | `slimline run smoke --variants original,int8` | `slimline run my-study.yaml`"
)
def run(
    study: Annotated[str, typer.Argument(help="A study's name, or the path of a YAML file.")] = "embedded",
    variants: Annotated[str | None, typer.Option(help="Only these, comma-separated; the baseline always runs.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Interleaved passes over all variants.")] = None,
    samples: Annotated[int | None, typer.Option(help="Line-completion samples.")] = None,
    host: Annotated[str | None, typer.Option(help="Where to measure: a host of flows/hosts.")] = None,
    as_json: Json = False,
) -> None:
    """Build every variant of a study, measure it, and print the result table, and which variant to ship.

    What is built already is not built again.
    """
    with refusing():
        chosen = _study(study, variants, rounds, samples, host)
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


def _study(name: str, variants: str | None, rounds: int | None, samples: int | None, host: str | None) -> Study:
    from flows.hosts import load_host
    from flows.study import load_study, parse_study

    study = load_study(name)
    if variants is not None:
        study = study.only([variant.strip() for variant in variants.split(",")])
    content = study.model_dump()
    if rounds is not None:
        content["measuring"]["rounds"] = rounds
    if samples is not None:
        content["data"]["samples"] = samples
    if host is not None:
        content["hosts"] = [host]
    for each in content["hosts"]:
        load_host(each)
    return parse_study(content)
