"""`slimline dashboard`: charts and tables of everything that was measured."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from slimline.flows.cli.options import exit_on_bad_input
from slimline.storage.paths import home
from slimline.storage.stores import metrics_store
from slimline.storage.token import token

app = typer.Typer()


@app.command(epilog="Examples: `slimline dashboard` | `slimline dashboard --port 8600`")
def dashboard(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the server listens.")] = 8501,
    host: Annotated[str, typer.Option(help="Which address it listens on; the default only this machine reaches.")] = (
        "127.0.0.1"
    ),
) -> None:
    """Serve the dashboard: results, trade-offs, history, comparisons, lineage and SQL, in the browser.

    It only reads, needs no network, and reports nothing to anyone. Its address is printed once it can be opened. Where
    other machines reach it, it asks for a token, which is made once.
    """
    from slimline.dashboards import LOGIN_FILE
    from slimline.dashboards.access import is_loopback
    from slimline.flows.server.ports import require_free_port
    from slimline.storage.child_process import module_command

    with exit_on_bad_input():
        require_free_port(host, port)
        metrics_store()  # what keeps it from being opened is said here, not on every page
        if not is_loopback(host):
            token(home() / LOGIN_FILE)
            typer.echo(f"log in with the token in {home() / LOGIN_FILE}")
    sys.stdout.flush()
    # The server replaces this process, so that a signal to the command stops it.
    command = module_command("slimline.dashboards.app", host, str(port))
    os.execv(command[0], command)  # noqa: S606 - our own module
