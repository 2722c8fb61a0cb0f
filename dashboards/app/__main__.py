"""Serve the dashboard: `python -m dashboards HOST PORT`, which `slimline dashboard` runs."""

from __future__ import annotations

import html
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import streamlit as st
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from slimline.dashboards import PATHS
from slimline.storage.queries.results import NotMeasured
from slimline.storage.stores import artifact_store, metrics_store

SCRIPT = Path(__file__).with_name("app.py")
# A page's address does not end where the server's does: without this, the browser would look for it below each page.
HERE = '<script>window.__streamlit = {BACKEND_BASE_URL: window.location.origin + "/"}</script>'


def serve(host: str, port: int) -> None:
    """Serve until stopped."""
    index = (Path(st.__file__).parent / "static" / "index.html").read_text("utf8").replace("<head>", f"<head>{HERE}")

    async def page(request: Request) -> HTMLResponse:
        return HTMLResponse(index, headers={"Cache-Control": "no-cache"})

    routes = [Route("/report", _report), *(Route(f"/{path}", page) for path in PATHS)]
    app = st.App(SCRIPT, routes=routes, lifespan=_warm)
    app.run(config={"server.address": host, "server.port": port})


async def _report(request: Request) -> HTMLResponse:
    """The report of the run that the query names, by default of the newest."""
    from slimline.dashboards.reports.html_report import report

    run = request.query_params.get("run")
    try:
        return HTMLResponse(await anyio.to_thread.run_sync(report, metrics_store(), artifact_store(), None, run))
    except NotMeasured as problem:
        return HTMLResponse(html.escape(str(problem)), status_code=404)


@asynccontextmanager
async def _warm(app: st.App) -> AsyncIterator[None]:
    """What every first visitor would wait for is read before there is one."""
    from slimline.dashboards.app import navigation  # its caches are for a running server

    await anyio.to_thread.run_sync(navigation.warm)
    yield


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
