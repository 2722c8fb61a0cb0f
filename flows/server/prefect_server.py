"""Prefect's server, for its own pages and who has the token; with the one of its two UIs that stays on this machine.

The other asks sr-client-cfg.amplitude.com for its configuration whenever it is opened, even with analytics off.

    python -m slimline.flows.server.prefect_server 127.0.0.1 4200
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import prefect
import uvicorn
from prefect.server.api.server import create_app
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.dependencies import set_database_config
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, get_current_settings
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from slimline.dashboards.access import OwnOrigins, own_names
from slimline.flows.server.discovery import LOGIN_PATH

# The token is behind the '#' of the address: browsers send that part to no server. The UI keeps it under this name.
_LOGIN_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>slimline: log in</title><script>
localStorage.setItem("prefect-password", btoa(decodeURIComponent(location.hash.slice(1))));
location.replace("/");
</script></html>"""


class WaitingSqlite(AioSqliteConfiguration):
    """SQLite, of which a transaction waits for its turn before it reads.

    One that reads first and writes later is refused at once if another has written meanwhile (SQLite's
    SQLITE_BUSY_SNAPSHOT). Prefect's clients then ask again after 2, 4, 8, ... seconds: many workers on a slow machine
    kept a request waiting for 11 minutes.
    """

    @asynccontextmanager
    async def begin_transaction(
        self, session: AsyncSession, with_for_update: bool = False
    ) -> AsyncGenerator[AsyncSessionTransaction, None]:
        """Begin it as one that writes."""
        async with super().begin_transaction(session, with_for_update=True) as transaction:
            yield transaction


def serve(host: str, port: int) -> None:
    """Serve until a signal; the rest of what Prefect wants to know is in its settings."""
    database = PREFECT_API_DATABASE_CONNECTION_URL.value()
    if database.startswith("sqlite"):
        set_database_config(WaitingSqlite(connection_url=database))
    prefect.__ui_v2_static_path__ = prefect.__ui_static_path__.with_name("none")
    api = get_current_settings().server.api
    app = create_app(final=True)
    app.router.routes.insert(0, Route(LOGIN_PATH, _log_in))
    uvicorn.run(
        OwnOrigins(app, own_names(host)),
        host=host,
        port=port,
        timeout_keep_alive=api.keepalive_timeout,
        ws_ping_interval=api.websocket_ping_interval,
        ws_ping_timeout=api.websocket_ping_timeout,
        log_level="info",
    )


async def _log_in(request: Request) -> HTMLResponse:
    """What `slimline serve` prints leads here: the UI is logged in, and opened."""
    return HTMLResponse(_LOGIN_PAGE)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
