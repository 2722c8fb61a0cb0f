"""Serve the dashboard: `python -m dashboards HOST PORT`, which `slimline dashboard` runs."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import streamlit as st
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from dashboards import PATHS

SCRIPT = Path(__file__).with_name("app.py")
# A page's address does not end where the server's does: without this, the browser would look for it below each page.
HERE = '<script>window.__streamlit = {BACKEND_BASE_URL: window.location.origin + "/"}</script>'


def serve(host: str, port: int) -> None:
    """Serve until stopped."""
    index = (Path(st.__file__).parent / "static" / "index.html").read_text("utf8").replace("<head>", f"<head>{HERE}")

    async def page(request: Request) -> HTMLResponse:
        return HTMLResponse(index, headers={"Cache-Control": "no-cache"})

    app = st.App(SCRIPT, routes=[Route(f"/{path}", page) for path in PATHS], lifespan=_warm)
    app.run(config={"server.address": host, "server.port": port})


@asynccontextmanager
async def _warm(app: st.App) -> AsyncIterator[None]:
    """What every first visitor would wait for is read before there is one."""
    from dashboards import pages  # its caches are for a running server

    await anyio.to_thread.run_sync(pages.warm)
    yield


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
