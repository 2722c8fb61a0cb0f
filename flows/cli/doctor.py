"""`slimline doctor`: what this machine is good for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from slimline.flows.cli.options import Json, exit_on_bad_input, fail

if TYPE_CHECKING:
    from slimline.tasks.measurement.peaks import Peaks

app = typer.Typer()


@app.command(epilog="Examples: `slimline doctor` | `slimline doctor --peaks --json`")
def doctor(
    peaks: Annotated[bool, typer.Option("--peaks", help="Also measure its peaks: arithmetic and memory.")] = False,
    as_json: Json = False,
) -> None:
    """Describe this machine: processor, instructions that matter, threads, versions, and what will be slow here."""
    from slimline.tasks.runtime.host import Conditions, describe_host, warnings

    described: dict[str, object] = describe_host()._asdict()
    problems = warnings(Conditions.now())
    if peaks:
        measured = _peaks()
        described["peaks"] = measured.model_dump(mode="json") if as_json else measured.describe()
    if as_json:
        typer.echo(json.dumps({**described, "warnings": problems}))
        return
    for key, value in described.items():
        shown = ", ".join(f"{name} {text}" for name, text in value.items()) if isinstance(value, dict) else value
        typer.echo(f"{key:12} {', '.join(map(str, shown)) if isinstance(shown, list | tuple) else shown}")
    for problem in problems or ["nothing: this host measures well"]:
        typer.echo(f"slow here    {problem}")


def _peaks() -> Peaks:
    from slimline.tasks.measurement.peaks import PeaksError, host_peaks
    from slimline.tasks.runtime.host import usable_threads
    from slimline.tasks.runtime.machine_lock import MachineLockError

    try:
        with exit_on_bad_input():
            return host_peaks(usable_threads(), remeasure=True)
    except (PeaksError, MachineLockError) as failure:
        fail(str(failure), status=1)
