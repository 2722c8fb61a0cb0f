"""The `slimline` command. What is heavy is imported by the command that needs it: a table prints in a second."""

from __future__ import annotations

import os
import signal
import sys

import typer

from slimline.flows.cli import (
    artifacts,
    codexglue,
    dashboard,
    doctor,
    nightly,
    recommend,
    report,
    run,
    serve,
    sql,
    table,
)
from slimline.flows.cli.options import BAD_INPUT

# pydantic would read the metadata of every installed package, to look for plugins of its own.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Compress code-completion models for CPUs, measure every variant, and see which one to ship.",
    epilog="State lives in .slimline, or where SLIMLINE_HOME says. Start with: `slimline run`",
)
for command in (run, nightly, serve, table, recommend, report, dashboard, sql, codexglue, doctor):
    app.add_typer(command.app)
app.add_typer(artifacts.app, name="artifacts")


def main() -> None:
    """Entry point of the command."""
    # A shell's background job ignores SIGINT, and so would everything that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app()
    except ImportError as error:
        from slimline.storage.extras import missing_extra

        message = missing_extra(error)
        if message is None:
            raise
        typer.echo(f"error: {message}", err=True)
        sys.exit(BAD_INPUT)


if __name__ == "__main__":
    main()
