"""`slimline serve`: the UI, the schedule and the workers."""

from __future__ import annotations

from typing import Annotated

import typer

from slimline.flows.cli.options import exit_on_bad_input, fail
from slimline.storage.stores import require_writable

app = typer.Typer()
_LAST_PORT = 65535
_DATABASES = ("postgresql+asyncpg://", "sqlite+aiosqlite:///")


@app.command(
    epilog="Examples: `slimline serve` | `slimline serve --port 4300 --pools local,laptop` | "
    "`slimline serve --connect http://desk:4200/api --pools laptop`"
)
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; only this machine reaches 127.0.0.1.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 4200,
    pools: Annotated[str, typer.Option(help="Pools that get a worker here, comma-separated; '' for none.")] = "local",
    database: Annotated[
        str | None,
        typer.Option(help="postgresql+asyncpg://user:password@host/name; SQLite in the state directory by default."),
    ] = None,
    connect: Annotated[
        str | None, typer.Option(help="API of a server that runs elsewhere: only workers for it run here.")
    ] = None,
) -> None:
    """Serve Prefect's UI and API, the deployments of prefect.yaml with their schedules, and this machine's workers.

    What ends is started again, and the runs that ended with it go on. Ctrl-C stops everything.
    """
    if not 1 <= port <= _LAST_PORT:
        fail(f"--port: {port} is not a port; allowed: 1 to {_LAST_PORT}")
    if database and not database.startswith(_DATABASES):
        fail(f"--database: {database.partition(':')[0]!r} is unknown; allowed: {' or '.join(_DATABASES)}...")
    if connect and not connect.startswith(("http://", "https://")):
        fail(f"--connect: {connect!r} is not a URL; allowed: such as http://desk:4200/api")
    from slimline.flows.server.supervisor import ServeError, ServeOptions
    from slimline.flows.server.supervisor import serve as supervise

    names = tuple(dict.fromkeys(name.strip() for name in pools.split(",") if name.strip()))
    try:
        with exit_on_bad_input():
            require_writable()
            running = supervise(ServeOptions(host, port, names, database, connect))
    except ServeError as error:
        fail(str(error), status=1)
    if running:
        typer.echo(f"served already, by process {running.pid}: the UI is at {running.url}, the API at {running.api}")
