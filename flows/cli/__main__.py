"""The `slimline` command. What is heavy is imported by the command that needs it: a table prints in a second."""

from __future__ import annotations

import os
import signal
import sys

import typer

from slimline.flows.cli import (
    artifacts,
    codexglue,
    comparison,
    dashboard,
    doctor,
    judge,
    metrics,
    nightly,
    recommend,
    report,
    run,
    serve,
    sql,
    table,
)
from slimline.flows.cli.options import BAD_INPUT, described
from slimline.storage.text import print_in_any_encoding

# pydantic would read the metadata of every installed package, to look for plugins of its own.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

DEBUG = "--debug"
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Compress code-completion models for CPUs, measure every variant, and see which one to ship.",
    epilog="State lives in .slimline, or where SLIMLINE_HOME says. With `--debug`, an error that nobody expected shows "
    "where it came from. Start with: `slimline run`",
)
for command in (run, nightly, judge, serve, table, recommend, comparison, report, dashboard, sql, codexglue, doctor):
    app.add_typer(command.app)
app.add_typer(artifacts.app, name="artifacts")
app.add_typer(metrics.app, name="metrics")


def main() -> None:
    """Entry point of the command."""
    # A shell's background job ignores SIGINT, and so would everything that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print_in_any_encoding()
    is_debugged = DEBUG in sys.argv
    sys.argv = [word for word in sys.argv if word != DEBUG]  # it may stand anywhere
    try:
        app()
    except Exception as error:
        if is_debugged:
            raise
        sys.exit(_say(error))


def _say(error: Exception) -> int:
    """Say in one line what a command did not expect; its exit status."""
    from slimline.storage.extras import missing_extra
    from slimline.storage.stores import store_url

    if type(error).__module__.startswith("botocore"):  # such as of credentials that are missing
        typer.echo(f"error: {store_url()}: {described(error)}", err=True)
        return BAD_INPUT
    if message := missing_extra(error):
        typer.echo(f"error: {message}", err=True)
        return BAD_INPUT
    typer.echo(f"error: {type(error).__name__}: {described(error)} ({DEBUG} shows where)", err=True)
    return 1


if __name__ == "__main__":
    main()
