"""The dashboard in a real browser, over a run of the smoke study and over a million measurements."""

import csv
import hashlib
import io
import json
import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from slimline.dashboards import PATHS
from tests.command import run_command
from tests.dashboards import big
from tests.dashboards.browser import Visit, chromium, dashboard, free_port, visit
from tests.system import require

pytestmark = [pytest.mark.e2e, pytest.mark.long]

CHANGED = "text => document.querySelector('[data-testid=stAlert]').innerText !== text"
SEVERE = ("serious", "critical")
ENDLESS = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range * b.range % 7 = 3"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    require("chromium")
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def listener() -> Iterator[list[str]]:
    """What the server would tell a proxy: everything that it asks other machines for."""
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def answer() -> None:
            while True:
                try:
                    connection, _ = proxy.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(1000).decode(errors="replace"))

        threading.Thread(target=answer, daemon=True).start()
        asked_at = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        PROXY.update(http_proxy=asked_at, https_proxy=asked_at, no_proxy="127.0.0.1,localhost")
        yield asked
        proxy.shutdown(socket.SHUT_RDWR)


PROXY: dict[str, str] = {}


@pytest.fixture(scope="module")
def smoke_url(smoke_home: Path, listener: list[str]) -> Iterator[str]:
    before = contents(smoke_home)
    with dashboard(smoke_home, **PROXY) as url:
        yield url
    assert contents(smoke_home) == before  # it only reads


@pytest.fixture(scope="module")
def big_url(tmp_path_factory: pytest.TempPathFactory, listener: list[str]) -> Iterator[str]:
    home = tmp_path_factory.mktemp("million")
    big.fill(home / "metrics")
    with dashboard(home, **PROXY) as url:
        yield url


def contents(home: Path) -> dict[str, str]:
    stores = [path for store in ("artifacts", "metrics") for path in (home / store).rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in stores}


def walk(browser: Browser, url: str, dark: bool) -> None:
    """Open every page by its address: nothing fails, nothing leaves the machine, and a screen reader can tell all."""
    with visit(browser, dark) as visitor:
        for path in (*PATHS, "sql?sql=FROM+result_table+LIMIT+5&mark=bar"):
            page = visitor.open(f"{url}/{path}")
            page.get_by_text("Running …").wait_for(state="detached")  # a query that takes long, shown in passing
            visitor.settled()
            assert page.locator("[data-testid=stException]").count() == 0, page.inner_text("main, [role=main], body")
            found = Axe().run(page).response["violations"]
            severe = [(each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in SEVERE]
            assert severe == [], path
        assert (visitor.foreign, visitor.errors) == ([], [])


def test_every_page_over_a_smoke_run(browser: Browser, smoke_url: str, listener: list[str]) -> None:
    walk(browser, smoke_url, dark=True)
    assert listener == []  # nor does the server ask another machine


def test_every_page_over_a_million_measurements(browser: Browser, big_url: str, listener: list[str]) -> None:
    walk(browser, big_url, dark=False)
    assert listener == []


def test_the_pages_show_what_was_measured(browser: Browser, smoke_url: str, smoke_home: Path) -> None:
    rows = json.loads(run_command("table", "--format", "json", home=smoke_home).stdout)
    with visit(browser) as visitor:
        page = visitor.open(smoke_url)
        text = page.locator(".sheet").inner_text()
        assert all(row["variant"] in text and f"{row['disk_mb']:.2f}" in text for row in rows)
        assert "delftblue" in text and "noise floor" in text
        page.get_by_text("as published", exact=True).click()
        page.wait_for_function("!document.querySelector('.sheet tbody').innerText.includes('int8')")
        page = visitor.open(f"{smoke_url}/compare?a=original&b=pruned&samples=all")
        assert page.get_by_text(re.compile("^Context")).count() == 5  # a page of samples, each with its own
        page = visitor.open(f"{smoke_url}/lineage?variant=onnx")
        assert all(step in page.locator("table").first.inner_text() for step in ("base", "group-lasso", "export-onnx"))


def test_a_link_restores_what_it_shows(browser: Browser, big_url: str) -> None:
    run = big.name_of(0)
    with visit(browser) as visitor:
        page = visitor.open(f"{big_url}/trade-offs?run={run}&x=memory")
        before = verdict(page)
        page.get_by_role("slider", name="EM drop at most").press("Home")
        page.wait_for_function(CHANGED, arg=before)
        shown, link = verdict(visitor.settled()), page.url
        assert "max_em_drop=" in link
    with visit(browser) as other:
        page = other.open(link)
        assert verdict(page) == shown
        assert page.get_by_role("combobox", name="Run").input_value() == run
        assert page.get_by_role("combobox", name="Against").input_value() == "memory"


def verdict(page: Page) -> str:
    return page.locator("[data-testid=stAlert]").first.inner_text()


def test_a_point_of_history_leads_to_its_run(browser: Browser, big_url: str) -> None:
    with visit(browser) as visitor:
        page = visitor.open(f"{big_url}/history?study=embedded&host=laptop&variants=original")
        text = page.locator("[data-testid=stMain]").inner_text()
        assert "Change points" in text and "Library upgrades" in text
        link = page.get_by_role("link", name=re.compile("Open the results of"))
        run = link.inner_text().rsplit(" ", 1)[1]
        link.press("Enter")
        page.wait_for_selector(".sheet")
        assert run in visitor.settled().locator(".sheet caption").first.inner_text()
        assert f"run={run}" in page.url


def test_exports_are_the_table(browser: Browser, smoke_url: str, tmp_path: Path) -> None:
    with visit(browser) as visitor:
        page = visitor.open(smoke_url)
        saved = {name: save(page, name, tmp_path) for name in ("CSV", "LaTeX", "Markdown", "HTML", "JSON", "Parquet")}
    rows = json.loads(saved["JSON"].read_text("utf8"))
    assert [row["variant"] for row in csv.DictReader(io.StringIO(saved["CSV"].read_text("utf8")))] == names(rows)
    assert names(pq.read_table(saved["Parquet"]).to_pylist()) == names(rows)
    begins: dict[str, Callable[[str], bool]] = {
        "LaTeX": lambda text: r"\begin{tabular}" in text,
        "Markdown": lambda text: "| model |" in text,
        "HTML": lambda text: "<table>" in text,
    }
    assert all(holds(saved[name].read_text("utf8")) for name, holds in begins.items())


def save(page: Page, name: str, directory: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name=name).click()
    path = directory / download.value.suggested_filename
    download.value.save_as(path)
    return path


def names(rows: list[dict[str, object]]) -> list[object]:
    return [row["variant"] for row in rows]


def test_sql_says_what_is_wrong_and_can_be_stopped(browser: Browser, smoke_url: str) -> None:
    with visit(browser) as visitor:
        page = visitor.open(f"{smoke_url}/sql")
        ask(page, "SELECT study,\n  nonsense FROM runs")
        page.get_by_text(re.compile(r'"nonsense" not found.*LINE 2', re.DOTALL)).wait_for()
        ask(page, "COPY runs TO '/tmp/x.csv'")
        page.get_by_text("queries only read").first.wait_for()
        assert any(is_cancelled(visitor, ENDLESS) for _ in range(20))
        ask(page, "SELECT variant, value FROM measurements WHERE metric = 'es'")
        page.get_by_text(re.compile(r"^\d+ rows in")).wait_for()
        assert "sql=" in page.url


def is_cancelled(visitor: Visit, sql: str) -> bool:
    """Whether Cancel ends a query; on a busy machine, the page's own limit of time may do so before the click."""
    ask(visitor.page, sql)
    cancel = visitor.page.get_by_role("button", name="Cancel")
    cancel.click()
    cancel.wait_for(state="detached")
    return visitor.settled().get_by_text("the query was cancelled").count() == 1


def ask(page: Page, sql: str) -> None:
    page.get_by_role("textbox", name=re.compile("^Query")).fill(sql)
    page.get_by_role("button", name="Run").click()


def test_an_empty_store_says_how_to_fill_it(browser: Browser, tmp_path: Path) -> None:
    with dashboard(tmp_path) as url, visit(browser) as visitor:
        for path in PATHS[:-1]:
            assert "slimline run smoke" in visitor.open(f"{url}/{path}").locator("[data-testid=stMain]").inner_text()
        assert (visitor.foreign, visitor.errors) == ([], [])
    assert not list(tmp_path.iterdir())


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = str(taken.getsockname()[1])
        refused = run_command("dashboard", "--port", port, home=tmp_path, check=False)
    assert refused.returncode == 2 and port in refused.stderr and "choose another" in refused.stderr


def test_a_runs_report_is_a_page_of_its_own(smoke_url: str) -> None:
    with urllib.request.urlopen(f"{smoke_url}/report") as answer:
        assert answer.status == 200 and "smoke" in answer.read().decode()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{smoke_url}/report?run=none")
