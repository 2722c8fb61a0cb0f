"""Prefect's UI, as a user clicks through it: Quick run, Custom run, results; the pictures of docs/ui.md.

SLIMLINE_PICTURES=docs/pictures pytest tests/e2e/test_ui.py
"""

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect, sync_playwright
from playwright.sync_api import TimeoutError as BrowserTimeout

from tests.command import SMOKE_DATA
from tests.e2e.server import Server, wait_until
from tests.system import PATIENCE_S, require

pytestmark = [pytest.mark.e2e, pytest.mark.long]

_BARE = (
    "no-sandbox disable-gpu disable-dev-shm-usage disable-background-networking disable-component-update disable-sync"
)
_PATIENCE_MS = 1000 * PATIENCE_S
ATTACK = (Path(__file__).with_name("programs") / "attack.js").read_text("utf8")
ENTRY = ".p-overflow-menu-item"

Snap = Callable[[str], None]


@pytest.fixture(scope="module")
def page(server: Server) -> Iterator[Page]:
    """A browser's page; that every request of it stays on this machine is asserted in the end."""
    asked: list[str] = []
    with sync_playwright() as playwright:
        # As a site does that lets its name lead to its visitor's machine.
        rebound = "host-resolver-rules=MAP evil.example 127.0.0.1"
        flags = [f"--{flag}" for flag in (*_BARE.split(), "no-first-run", rebound)]
        browser = playwright.chromium.launch(executable_path=require("chromium"), args=flags)
        page = browser.new_page(viewport={"width": 1200, "height": 750})
        page.set_default_timeout(_PATIENCE_MS)
        expect.set_options(timeout=_PATIENCE_MS)
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: asked.append(socket.url))
        page.goto(server.url)
        expect(page.get_by_role("button", name="Login")).to_be_visible()
        page.goto(re.findall("log in: open (.*)", server.output.read_text("utf8"))[0])
        yield page
        browser.close()
    hosts = {urlsplit(url.removeprefix("blob:")).hostname for url in asked if not url.startswith("data:")}
    assert hosts - {None} == {"127.0.0.1"}, [url for url in asked if "127.0.0.1" not in url]


@pytest.fixture
def snap(page: Page) -> Snap:
    """Takes a picture for the documentation, where one is wanted."""
    directory = os.environ.get("SLIMLINE_PICTURES")

    def take(name: str) -> None:
        if directory:
            page.wait_for_timeout(2000)  # what moves has come to rest
            page.screenshot(path=Path(directory) / f"{name}.png")

    return take


@pytest.fixture(scope="module")
def other_site() -> Iterator[str]:
    """A page that a person may have open beside the UI."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>Cats</title><body></body>")

        def log_message(self, *_: object) -> None:
            pass

    site = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=site.serve_forever)
    thread.start()
    yield f"http://localhost:{site.server_port}"
    site.shutdown()
    thread.join()
    site.server_close()


def test_a_page_of_another_site_reads_and_starts_nothing(page: Page, server: Server, other_site: str) -> None:
    assert page.context.browser
    deployment = server.deployment("gc/gc")["id"]
    with page.context.browser.new_page() as visited:
        for site in (other_site, other_site.replace("localhost", "127.0.0.1")):
            visited.goto(site)
            target = {"server": server.url, "deployment": deployment}
            assert visited.evaluate(ATTACK, target) == []
    assert server.ask("flow_runs/count", flow_runs={"name": {"any_": ["stranger"]}}) == 0


def test_a_site_whose_name_leads_to_this_machine_gets_nothing(page: Page, server: Server) -> None:
    assert page.context.browser
    with page.context.browser.new_page() as visited:
        answer = visited.goto(f"http://evil.example:{server.port}/")
        assert answer and answer.status == 403


def test_only_the_ui_that_keeps_to_this_machine_is_there(server: Server) -> None:
    told = httpx.get(f"{server.url}/ui-settings", timeout=PATIENCE_S).json()
    assert told["available_uis"] == ["v1"]
    assert httpx.get(f"{server.url}/v2/", headers={"Accept": "text/html"}, timeout=PATIENCE_S).status_code == 307


def open_deployment(page: Page, server: Server, name: str) -> None:
    page.goto(server.url)
    page.get_by_text("Deployments", exact=True).first.click()
    page.locator("a[href*='/deployments/deployment/']", has_text=name).first.click()
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_visible()


def newest_run(server: Server, known: set[str]) -> str:
    states = ("SCHEDULED", "PENDING", "RUNNING", "COMPLETED", "FAILED", "CRASHED")
    return wait_until(
        lambda: next(
            (run["id"] for run in server.runs_of("benchmark/benchmark", *states) if run["id"] not in known), ""
        ),
        "the run is on the schedule",
    )


def known_runs(server: Server) -> set[str]:
    return {run["id"] for run in server.runs_of("benchmark/benchmark", "COMPLETED", "FAILED", "CRASHED")}


def field(page: Page, name: str) -> Locator:
    """A parameter of the custom run's form."""
    return page.locator("form .schema-form-property", has_text=f"{name} (Optional)").last


def submit(page: Page) -> None:
    """Submit a form, again where a busy server has not taken it; a form that was taken is left by the UI."""
    form = page.url
    for _ in range(5):
        page.get_by_role("button", name="Submit").click()
        with suppress(BrowserTimeout):
            page.wait_for_url(lambda url: url != form, timeout=_PATIENCE_MS / 5)
            return
    raise AssertionError(page.locator("body").inner_text())


def see_results(page: Page, server: Server, run: str, snap: Snap) -> None:
    """The result table among the run's artifacts."""
    page.goto(f"{server.url}/runs/flow-run/{run}")
    page.get_by_text("Artifacts", exact=True).click()
    page.locator("a[href*='/artifacts/artifact/']", has_text="smoke-results").first.click()
    for column in ("variant", "speed", "original"):
        expect(page.get_by_text(column).first).to_be_visible()
    snap("results")


@pytest.fixture(scope="module")
def shorter(server: Server) -> Iterator[None]:
    """A Quick run that takes a minute: the study in full takes several; what is clicked is the same."""
    deployment = server.deployment("benchmark/benchmark")
    assert deployment["parameters"] == {"study": "smoke"}
    place = f"deployments/{deployment['id']}"
    quick = {"study": "smoke", "variants": ["int8"], "rounds": 1}
    server.request("PATCH", place, {"parameters": quick})
    yield
    server.request("PATCH", place, {"parameters": deployment["parameters"]})


@pytest.mark.usefixtures("shorter")
def test_quick_run_ends_in_a_result_table(page: Page, server: Server, snap: Snap) -> None:
    known = known_runs(server)
    open_deployment(page, server, "benchmark")
    page.get_by_text("Description", exact=True).click()
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(ENTRY, has_text="Quick run")).to_be_visible()
    snap("run")
    page.locator(ENTRY, has_text="Quick run").click()
    run = newest_run(server, known)
    page.goto(f"{server.url}/runs/flow-run/{run}")
    expect(page.get_by_text("Running", exact=True).first).to_be_visible()
    snap("running")
    page.goto("about:blank")  # what moves on the page would slow down what is measured
    assert server.wait_for_end(run)["type"] == "COMPLETED"
    page.goto(f"{server.url}/runs/flow-run/{run}")
    expect(page.get_by_text("Completed", exact=True).first).to_be_visible()
    assert server.ask(f"flow_runs/{run}")["name"] == "benchmark smoke"
    see_results(page, server, run, snap)


@pytest.mark.usefixtures("shorter")
def test_custom_run_takes_what_is_filled_in(page: Page, server: Server, snap: Snap) -> None:
    known = known_runs(server)
    open_deployment(page, server, "benchmark")
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator(ENTRY, has_text="Custom run").click()
    for name, value in (("rounds", "2"), ("samples", str(SMOKE_DATA["samples"]))):
        field(page, name).get_by_role("button", name="int").click()
        field(page, name).get_by_role("spinbutton").fill(value)
    snap("custom-run")
    submit(page)
    run = newest_run(server, known)
    page.goto("about:blank")
    assert server.wait_for_end(run)["type"] == "COMPLETED"
    parameters = server.ask(f"flow_runs/{run}")["parameters"]
    assert (parameters["study"], parameters["rounds"], parameters["samples"]) == ("smoke", 2, SMOKE_DATA["samples"])
    assert {row["round"] for row in server.rows(run)} == {1, 2}
    see_results(page, server, run, snap)


def test_the_schedule_is_there_to_be_paused(page: Page, server: Server) -> None:
    open_deployment(page, server, "nightly")
    page.get_by_text("Details", exact=True).click()
    expect(page.get_by_role("tabpanel", name="Details").get_by_text("daily-0230-amsterdam")).to_be_visible()
