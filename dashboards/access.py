"""Who may talk to a web server of ours: this server's own pages and people with its token, not other web pages.

A page of any site can send requests to servers on its visitor's machine. Its `Origin` gives it away; a site whose name
is made to point at this machine (DNS rebinding) is given away by the `Host` that its requests still carry.
"""

from __future__ import annotations

import hmac
import html
import ipaddress
import re
import socket
from collections.abc import Collection
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

_LOCALHOST = "localhost"
_HOST = re.compile(r"(\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(:[0-9]+)?")  # RFC 9110, section 7.2
_LOGIN = "/login"
_MONTH_S = 30 * 24 * 3600
_MOST_BYTES = 10_000
_LOGIN_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>slimline: log in</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body {{ font: 1rem system-ui; max-width: 24rem; margin: 20vh auto; padding: 0 1rem }}
input, button {{ font: inherit; padding: .4rem; width: 100%; box-sizing: border-box; margin: .3rem 0 }}</style>
<h1>slimline</h1><p role="status">{problem}</p>
<form method="post" action="/login"><label>Token <input name="token" type="password" required autofocus></label>
<input name="next" type="hidden" value="{next}"><button>Log in</button></form>
<p>The command that serves this page has printed where the token is.</p></html>"""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address that a server listens on."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == _LOCALHOST


def own_names(host: str) -> frozenset[str]:
    """The names by which requests may call a server that listens on `host`; addresses need no name."""
    machine = () if is_loopback(host) else (host, socket.gethostname(), socket.getfqdn())
    return frozenset(name.lower() for name in (_LOCALHOST, *machine))


class OwnOrigins:
    """Refuses, with status 403, what other web pages send, and what is sent to another name than the server's own."""

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        """Guard `app`; `names` are those of `own_names`."""
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] in ("http", "websocket"):
            problem = _problem(Headers(scope=scope), scope.get("method", "GET"), self._names)
            if problem:
                await _refuse(scope, receive, send, PlainTextResponse(f"{problem}\n", 403))
                return
        await self._app(scope, receive, send)


def _problem(headers: Headers, method: str, names: Collection[str]) -> str | None:
    """Why a request is refused; None if it is not."""
    hosts, origins = headers.getlist("host"), headers.getlist("origin")
    if len(hosts) != 1 or not _is_own(hosts[0], names):
        return f"Host: {', '.join(hosts) or 'missing'}; allowed: {', '.join(sorted(names))}, or an IP address"
    if any(urlsplit(origin).netloc.lower() != hosts[0].lower() for origin in origins):
        return f"Origin: {', '.join(origins)}; allowed: a page of this server"
    # Browsers say so of every request; what has no Origin, such as an image or a frame, is caught by this.
    is_visit = method == "GET" and headers.get("sec-fetch-dest") == "document"
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not is_visit:
        return "Sec-Fetch-Site: another site's page; allowed: a page of this server"
    return None


def _is_own(host: str, names: Collection[str]) -> bool:
    """Whether it is an address, which no site can have as its name, or one of the names."""
    found = _HOST.fullmatch(host.lower())
    if not found:
        return False
    name = found["address"] or found["name"]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name.removesuffix(".") in names
    return True


class Login:
    """Lets in who knows the token: once in the browser, by a form; with every request, as `Authorization: Bearer`."""

    def __init__(self, app: ASGIApp, token: str, cookie: str) -> None:
        """Guard `app`; `cookie` names the cookie that keeps the token for a month."""
        self._app, self._token, self._cookie = app, token, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] not in ("http", "websocket") or self._is_logged_in(HTTPConnection(scope)):
            await self._app(scope, receive, send)
        else:
            answer = await self._ask(Request(scope, receive)) if scope["type"] == "http" else Response(status_code=401)
            await _refuse(scope, receive, send, answer)

    def _is_logged_in(self, request: HTTPConnection) -> bool:
        known = request.headers.get("authorization", "").removeprefix("Bearer ")
        return self._is_token(known) or self._is_token(request.cookies.get(self._cookie, ""))

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self._token.encode())

    async def _ask(self, request: Request) -> Response:
        """The form, or what follows it."""
        if request.method == "GET" and request.url.path != _LOGIN:
            path = f"{request.url.path}?{request.url.query}".removesuffix("?")
            return _form("", path, 401)
        if request.method != "POST" or request.url.path != _LOGIN:
            return PlainTextResponse("log in first, or send the token as Authorization: Bearer\n", 401)
        fields = parse_qs((await _body(request)).decode("utf8", "replace"))
        path, token = (fields.get(name, [""])[0] for name in ("next", "token"))
        if not self._is_token(token):
            return _form("This is not the token.", path, 401)
        answer = RedirectResponse(_own_path(path), 303)
        answer.set_cookie(self._cookie, self._token, _MONTH_S, httponly=True, samesite="strict")
        return answer


def _form(problem: str, path: str, status: int) -> Response:
    page = _LOGIN_PAGE.format(problem=problem, next=html.escape(_own_path(path), quote=True))
    return HTMLResponse(page, status)


def _own_path(path: str) -> str:
    """The path, or the start page if it leads to another server."""
    return path if re.fullmatch(r"/([^/\\].*)?", path) else "/"


async def _body(request: Request) -> bytes:
    """What was sent, up to what a form may have."""
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > _MOST_BYTES:
            return b""
    return content


async def _refuse(scope: Scope, receive: Receive, send: Send, answer: Response) -> None:
    """Answer a request, or decline a WebSocket, which gets 403."""
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).close()
    else:
        await answer(scope, receive, send)
