"""Serve the dashboard: `python -m slimline.dashboards.app HOST PORT`, which `slimline dashboard` runs."""

from __future__ import annotations

import html
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import streamlit as st
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route
from streamlit import net_util

from slimline.dashboards import LOGIN_FILE, PATHS
from slimline.dashboards.access import Login, OwnOrigins, is_loopback, own_names
from slimline.storage.paths import home
from slimline.storage.queries.results import NotMeasuredError, result_rows
from slimline.storage.stores import artifact_store, metrics_store
from slimline.storage.token import token

SCRIPT = Path(__file__).with_name("app.py")
# Without it, the browser would look for the server below the address of each page.
BASE_URL = '<script>window.__streamlit = {BACKEND_BASE_URL: window.location.origin + "/"}</script>'


def serve(host: str, port: int) -> None:
    """Serve until stopped."""
    index = (
        (Path(st.__file__).parent / "static" / "index.html").read_text("utf8").replace("<head>", f"<head>{BASE_URL}")
    )

    async def page(request: Request) -> HTMLResponse:
        return HTMLResponse(index, headers={"Cache-Control": "no-cache"})

    routes = [Route("/report", _report), *(Route(f"/{path}", page) for path in PATHS)]
    app = st.App(SCRIPT, routes=routes, lifespan=_fill_caches, middleware=_guards(host, port))
    # Streamlit would ask checkip.amazonaws.com what this machine's address is, to print it.
    vars(net_util)["get_external_ip"] = lambda: None
    app.run(config={"server.address": host, "server.port": port})


def _guards(host: str, port: int) -> list[Middleware]:
    """No other web page reads the store through a visitor's browser, and no other machine without the token."""
    own = Middleware(OwnOrigins, names=own_names(host))
    if is_loopback(host):
        return [own]
    return [own, Middleware(Login, token=token(home() / LOGIN_FILE), cookie=f"slimline-{port}")]


async def _report(request: Request) -> HTMLResponse:
    """The report of the run that the query names, by default of the newest."""
    run = request.query_params.get("run")
    try:
        return HTMLResponse(await anyio.to_thread.run_sync(_report_page, run))
    except NotMeasuredError as problem:
        return HTMLResponse(html.escape(str(problem)), status_code=404)


def _report_page(run: str | None) -> str:
    from slimline.dashboards.reports.html_report import report

    store = metrics_store()
    return report(result_rows(store, run=run), store, artifact_store())


@asynccontextmanager
async def _fill_caches(app: st.App) -> AsyncIterator[None]:
    """Read what every first visitor would wait for, before there is one."""
    from slimline.dashboards.app import navigation  # its caches are for a running server

    await anyio.to_thread.run_sync(navigation.fill_caches)
    yield


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
