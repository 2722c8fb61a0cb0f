"""Who may talk to a web server of ours: every request another site's page could send is refused."""

from collections.abc import Mapping

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketDisconnect

from slimline.dashboards.access import Login, OwnOrigins, is_loopback, own_names

TOKEN = "correct-horse-battery-staple-0123456789"


async def page(request: Request) -> PlainTextResponse:
    return PlainTextResponse("inside")


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close()


APP = Starlette(routes=[Route("/{path:path}", page, methods=["GET", "POST"]), WebSocketRoute("/socket", socket)])


def status(app: ASGIApp, headers: Mapping[str, str], method: str = "POST") -> int:
    return TestClient(app).request(method, "/", headers=dict(headers)).status_code


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "127.0.0.1:4200"},
        {"host": "127.0.0.1"},
        {"host": "localhost:4200"},
        {"host": "LOCALHOST.:4200"},
        {"host": "[::1]:4200"},
        {"host": "192.168.1.7:4200", "origin": "http://192.168.1.7:4200"},
        {"host": "localhost:4200", "origin": "http://localhost:4200"},
        {"host": "localhost:4200", "origin": "http://localhost:4200", "sec-fetch-site": "same-origin"},
        {"host": "localhost:4200", "sec-fetch-site": "none", "sec-fetch-dest": "document"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_own_requests_are_answered(headers: Mapping[str, str], method: str) -> None:
    assert status(OwnOrigins(APP, own_names("127.0.0.1")), headers, method) == 200


FOREIGN = [
    {"host": "evil.example"},
    {"host": "evil.example:4200", "origin": "http://evil.example:4200"},
    {"host": "localhost.evil.example"},
    {"host": "127.0.0.1.evil.example"},
    {"host": "evil.example@127.0.0.1"},
    {"host": ""},
    {"host": "[::1"},
    {"host": "127.0.0.1:4200", "origin": "http://evil.example"},
    {"host": "127.0.0.1:4200", "origin": "http://127.0.0.1:8000"},
    {"host": "127.0.0.1:4200", "origin": "http://localhost:4200"},
    {"host": "127.0.0.1:4200", "origin": "null"},
    {"host": "127.0.0.1:4200", "origin": ""},
    {"host": "127.0.0.1:4200", "origin": "http://evil.example/127.0.0.1:4200"},
    {"host": "127.0.0.1:4200", "origin": "http://127.0.0.1:4200@evil.example"},
    {"host": "127.0.0.1:4200", "sec-fetch-site": "cross-site"},
    {"host": "127.0.0.1:4200", "sec-fetch-site": "same-site", "sec-fetch-dest": "iframe"},
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_requests_of_other_pages_are_refused(headers: Mapping[str, str], method: str) -> None:
    assert status(OwnOrigins(APP, own_names("127.0.0.1")), headers, method) == 403


@pytest.mark.parametrize("headers", FOREIGN)
def test_so_are_their_web_sockets(headers: Mapping[str, str]) -> None:
    client = TestClient(OwnOrigins(APP, own_names("127.0.0.1")))
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/socket", headers=dict(headers)):
        pass


def test_a_link_of_another_page_opens_ours() -> None:
    visit = {"host": "127.0.0.1:4200", "sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}
    app = OwnOrigins(APP, own_names("127.0.0.1"))
    assert (status(app, visit, "GET"), status(app, visit, "POST")) == (200, 403)


def test_names_are_of_the_addresses_that_are_listened_on() -> None:
    assert own_names("127.0.0.1") == own_names("localhost") == own_names("::1") == {"localhost"}
    assert {"localhost", "desk.example.org"} < own_names("Desk.example.org")
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "desk", "10.0.0.1")] == [False] * 4


@pytest.fixture
def client() -> TestClient:
    return TestClient(Login(APP, TOKEN, "slimline"), follow_redirects=False)


def test_without_the_token_there_is_a_form_and_no_answer(client: TestClient) -> None:
    form = client.get("/report?run=r1")
    assert form.status_code == 401 and "inside" not in form.text
    assert 'value="/report?run=r1"' in form.text
    assert client.post("/report").status_code == 401
    assert client.get("/", headers={"authorization": "Bearer wrong"}).status_code == 401
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/socket"):
        pass


def test_with_it_the_browser_is_remembered(client: TestClient) -> None:
    wrong = client.post("/login", data={"token": TOKEN[:-1], "next": "/report"})
    assert wrong.status_code == 401 and not wrong.cookies
    right = client.post("/login", data={"token": TOKEN, "next": "/report"})
    assert (right.status_code, right.headers["location"]) == (303, "/report")
    for word in ("HttpOnly", "SameSite=strict"):
        assert word in right.headers["set-cookie"]
    assert client.get("/report").text == "inside"
    with client.websocket_connect("/socket"):
        pass


def test_a_script_sends_it_along(client: TestClient) -> None:
    assert client.get("/", headers={"authorization": f"Bearer {TOKEN}"}).text == "inside"
    assert not client.cookies


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "http://evil.example", "evil", ""])
def test_it_never_leads_to_another_server(client: TestClient, path: str) -> None:
    assert client.post("/login", data={"token": TOKEN, "next": path}).headers["location"] == "/"


def test_what_is_shown_again_is_escaped(client: TestClient) -> None:
    assert "<script>" not in client.get('/"><script>').text


def test_a_body_larger_than_any_form_is_not_read_to_its_end(client: TestClient) -> None:
    assert client.post("/login", content=b"token=" + b"x" * 1_000_000).status_code == 401
