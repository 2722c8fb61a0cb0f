"""`slimline doctor`: what this machine is good for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from slimline.flows.cli.options import Json, exit_on_bad_input, fail

if TYPE_CHECKING:
    from slimline.tasks.measurement.peaks import Remeasured

app = typer.Typer()


@app.command(epilog="Examples: `slimline doctor` | `slimline doctor --peaks --json`")
def doctor(
    peaks: Annotated[
        bool, typer.Option("--peaks", help="Also measure its peaks, arithmetic and memory; the best ever are kept.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Describe this machine: processor, instructions that matter, threads, versions, and what will be slow here."""
    from slimline.tasks.runtime.host import Conditions, describe_host, warnings

    described: dict[str, object] = describe_host()._asdict()
    problems = warnings(Conditions.now())
    measured = _remeasure() if peaks else None
    if as_json:
        found = {"peaks": _peaks_json(measured)} if measured else {}
        typer.echo(json.dumps({**described, **found, "warnings": problems}))
        return
    for key, value in described.items():
        shown = ", ".join(f"{name} {text}" for name, text in value.items()) if isinstance(value, dict) else value
        typer.echo(f"{key:12} {', '.join(map(str, shown)) if isinstance(shown, list | tuple) else shown}")
    for line in _peaks_text(measured) if measured else ():
        typer.echo(line)
    for problem in problems or ["nothing: this host measures well"]:
        typer.echo(f"slow here    {problem}")


def _peaks_json(measured: Remeasured) -> dict[str, object]:
    found: dict[str, object] = {name: getattr(measured, name).model_dump(mode="json") for name in ("now", "kept")}
    return {**found, "file": str(measured.path), "busy": measured.is_busy}


def _peaks_text(measured: Remeasured) -> Iterator[str]:
    """What was measured now, and what is kept: the best of all measurements."""
    for name, text in measured.now.describe().items():
        yield f"now          {name} {text}"
    if measured.is_busy:
        yield f"now          the machine was busy (load {measured.now.least_load:.2f}): these may be too low"
    for name, text in measured.kept.describe().items():
        yield f"kept         {name} {text}"
    yield f"kept         the best of {measured.kept.measurements}, in {measured.path}"


def _remeasure() -> Remeasured:
    from slimline.tasks.measurement.peaks import PeaksError, remeasure_peaks
    from slimline.tasks.runtime.host import usable_threads
    from slimline.tasks.runtime.machine_lock import MachineLockError

    try:
        with exit_on_bad_input():
            return remeasure_peaks(usable_threads())
    except (PeaksError, MachineLockError) as failure:
        fail(str(failure), status=1)
