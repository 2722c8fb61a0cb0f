"""What the commands share: how bad input ends, and where state is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from slimline.storage.stores import require_writable

if TYPE_CHECKING:
    from slimline.flows.config.study import Study

BAD_INPUT = 2
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
StudyName = Annotated[str, typer.Argument(help="A study's name, or the path of a YAML file.")]
Variants = Annotated[str | None, typer.Option(help="Only these, comma-separated; the baseline always runs.")]
Rounds = Annotated[int | None, typer.Option(help="Interleaved passes over all variants.")]
Samples = Annotated[int | None, typer.Option(help="Line-completion samples.")]
Hosts = Annotated[
    list[str] | None, typer.Option(help="Where to measure: a name, or a YAML file; repeat it for several.")
]


@contextmanager
def exit_on_bad_input() -> Iterator[None]:
    """Bad input ends in one clear message and exit status 2, not in a traceback."""
    try:
        yield
    except _refusals() as error:
        fail(described(error))


def described(error: BaseException) -> str:
    """What went wrong, in words; of the system's errors the file and the reason, without their number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    from pydantic import ValidationError  # not before there is an error: `--help` does without

    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
    return str(error) or type(error).__name__


def _refusals() -> tuple[type[Exception], ...]:
    # Asked for only once something was raised: naming these classes costs an import of DuckDB.
    from slimline.storage.artifacts.store import ArtifactError
    from slimline.storage.metrics.store import QueryError

    return ValueError, LookupError, OSError, ArtifactError, QueryError


def fail(message: str, status: int = BAD_INPUT) -> NoReturn:
    """End the command with a message on standard error."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(status)


def require_state() -> None:
    """End the command unless its state can be written to; before Prefect opens its database there."""
    with exit_on_bad_input():
        require_writable()


def study_from_options(
    name: str, variants: str | None, rounds: int | None, samples: int | None, hosts: list[str] | None
) -> Study:
    """The study that a command's options ask for; bad input ends the command before anything is computed."""
    with exit_on_bad_input():
        from slimline.flows.config.study import load_study

        names = [variant.strip() for variant in variants.split(",")] if variants is not None else None
        return load_study(name).with_options(names, rounds, samples, hosts)
