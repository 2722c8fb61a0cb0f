"""What the commands share: how bad input ends, and where state is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer

BAD_INPUT = 2
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def refusing() -> Iterator[None]:
    """Bad input ends in one clear message and exit status 2, not in a traceback."""
    try:
        yield
    except _refusals() as error:
        fail(str(error))


def _refusals() -> tuple[type[Exception], ...]:
    # Asked for only once something was raised: naming these classes costs an import of DuckDB.
    from storage.artifacts import ArtifactError
    from storage.metrics import QueryRefused

    return ValueError, LookupError, OSError, ArtifactError, QueryRefused


def fail(message: str, status: int = BAD_INPUT) -> NoReturn:
    """End the command with a message on standard error."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(status)
