"""`slimline dashboard`: pictures and tables of everything that was measured."""

from __future__ import annotations

import os
import socket
import sys
from typing import Annotated

import typer

from flows.commands.shared import fail

app = typer.Typer()


@app.command(epilog="Examples: `slimline dashboard` | `slimline dashboard --port 8600`")
def dashboard(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the server listens.")] = 8501,
    host: Annotated[str, typer.Option(help="Which address it listens on; the default only this machine reaches.")] = (
        "127.0.0.1"
    ),
) -> None:
    """Serve the dashboard: results, trade-offs, history, comparisons, lineage and SQL, in the browser.

    It only reads, needs no network, and reports nothing to anyone. Its address is printed once it can be opened.
    """
    _check_free(host, port)
    sys.stdout.flush()
    # The server takes this process's place: whoever stops the command stops it.
    os.execv(sys.executable, [sys.executable, "-m", "dashboards", host, str(port)])  # noqa: S606 - our own module


def _check_free(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        fail(f"--host {host} --port {port}: cannot listen there: {error.strerror or error}; choose another")
