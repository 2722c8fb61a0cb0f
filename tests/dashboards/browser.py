"""The dashboard as a person meets it: the real command, a real Chromium, and what the browser had to complain about."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, ViewportSize, sync_playwright

from tests.command import ROOT, environment
from tests.system import PATIENCE_S

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
SIZE = ViewportSize(width=1400, height=1000)
# The script has run, nothing on the page is of a run before, and every chart is drawn.
SETTLED = """() => {
    const app = document.querySelector('[data-testid=stApp]');
    const charts = [...document.querySelectorAll('[data-testid=stVegaLiteChart]')];
    return app && app.dataset.testScriptState === 'notRunning'
        && document.querySelector('h1') && !document.querySelector('[data-stale=true], [data-testid=stSkeleton]')
        && charts.every(chart => chart.querySelector('svg, canvas'));
}"""


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def dashboard(home: Path, **variables: str) -> Iterator[str]:
    """The address of `slimline dashboard` over the stores of `home`, until the context ends."""
    port = free_port()
    command = [sys.executable, "-m", "slimline.flows.cli", "dashboard", "--port", str(port)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(home) | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(url, server)
            yield url
        finally:
            server.terminate()


def _wait_for(url: str, server: "subprocess.Popen[str]") -> None:
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/_stcore/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    assert server.stdout
    raise AssertionError(f"the dashboard ended with {server.returncode}:\n{server.stdout.read()}")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, headless."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """A visitor's page, with the requests that left the machine and the errors that the browser saw."""

    page: Page
    foreign: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def open(self, url: str) -> Page:
        """Go there, and wait until all is drawn."""
        self.page.goto(url)
        return self.settled()

    def settled(self) -> Page:
        """Wait until all is drawn."""
        self.page.wait_for_function(SETTLED)
        return self.page

    def note_request(self, request: Request) -> None:
        """Keep the address of a request that leaves the machine."""
        if _is_foreign(request.url):
            self.foreign.append(request.url)

    def note_message(self, said: ConsoleMessage) -> None:
        """Keep an error of the console."""
        if said.type == "error":
            self.errors.append(said.text)


@contextmanager
def visit(browser: Browser, dark: bool = False) -> Iterator[Visit]:
    """A visitor without any past, whose requests to other machines end nowhere."""
    with browser.new_context(viewport=SIZE, color_scheme="dark" if dark else "light") as context:
        context.set_default_timeout(1000 * PATIENCE_S)
        visitor = Visit(context.new_page())
        visitor.page.on("request", visitor.note_request)
        visitor.page.on("console", visitor.note_message)
        visitor.page.on("pageerror", lambda error: visitor.errors.append(str(error)))
        yield visitor


def _is_foreign(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:", "about:"))
