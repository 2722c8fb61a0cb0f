"""`slimline metrics`: the files of what was measured."""

from __future__ import annotations

import json

import typer

from slimline.flows.cli.options import Json, exit_on_bad_input
from slimline.storage.stores import metrics_store
from slimline.storage.text import clean

app = typer.Typer(no_args_is_help=True, help="The files of what was measured: verify.")


@app.callback()
def metrics() -> None:
    """Keep `verify` a command of its own, though it is the only one."""


@app.command("verify", epilog="Examples: `slimline metrics verify` | `slimline metrics verify --json`")
def verify_metrics(as_json: Json = False) -> None:
    """Read every byte of every file of the metrics store; exit status 1 if one is damaged, foreign, a copy, or gone."""
    with exit_on_bad_input():
        report = metrics_store().inspect(again=True)
    if as_json:
        typer.echo(json.dumps({"whole": list(report.whole), "problems": report.problems}))
    else:
        for name, problem in report.problems.items():
            typer.echo(clean(f"{name}: {problem}"), err=True)
        typer.echo(f"{len(report.whole)} of {len(report.whole) + len(report.problems)} files are whole")
    if report.problems:
        raise typer.Exit(1)
