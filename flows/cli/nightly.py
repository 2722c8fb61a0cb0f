"""`slimline nightly` and `slimline regressions`: is it still as fast, as small and as good as it was?"""

from __future__ import annotations

from typing import Annotated

import typer

from slimline.flows.cli.options import (
    Hosts,
    Json,
    Rounds,
    Samples,
    StudyName,
    Variants,
    exit_on_bad_input,
    require_state,
    study_from_options,
)
from slimline.storage.stores import metrics_store

app = typer.Typer()


@app.command(epilog="Examples: `slimline nightly` | `slimline nightly smoke --rounds 5 --host local`")
def nightly(
    study: StudyName = "embedded",
    variants: Variants = None,
    rounds: Rounds = None,
    samples: Samples = None,
    host: Hosts = None,
    as_json: Json = False,
) -> None:
    """Benchmark a study and judge it against its history; what looks worse is measured again before it counts.

    Exit status 1 if anything has regressed or failed. The first nights only make history.
    """
    chosen = study_from_options(study, variants, rounds, samples, host)
    require_state()
    from slimline.dashboards.reports.regressions import render_verdicts
    from slimline.flows.cli.flow_runner import run_nightly

    found = run_nightly(chosen)
    if found.run:
        typer.echo(render_verdicts(found.rows, found.floors, "json" if as_json else "text"), nl=False)
    for variant, reason in found.failed.items():
        typer.echo(f"failed: {variant}: {reason}", err=True)
    if found.regressions or found.failed:
        raise typer.Exit(1)


@app.command(epilog="Examples: `slimline regressions` | `slimline regressions --all --json`")
def regressions(
    recovered: Annotated[bool, typer.Option("--all", help="Also those that have recovered.")] = False,
    as_json: Json = False,
) -> None:
    """Print the open regressions: the newest confirmed one of each variant, metric and class of hosts."""
    with exit_on_bad_input():
        from slimline.dashboards.reports.regressions import render_regressions

        typer.echo(render_regressions(metrics_store(), recovered, "json" if as_json else "text"), nl=False)
