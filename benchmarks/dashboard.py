"""How long a visitor of the dashboard waits, over a million measurements, in a real Chromium."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page

from benchmarks.timing import Figure, time_action
from slimline.dashboards import PATHS
from tests.dashboards import big
from tests.dashboards.browser import chromium, dashboard, visit
from tests.system import PATIENCE_S

TIMES = 3
TITLE = f"dashboard, {big.MEASUREMENTS:,} measurements"
# What a page is opened for: the table, the chart, or what says that there is a query to write.
CONTENT = {
    "": ".sheet td strong",
    "lineage": "[data-testid=stAlert]",  # generated figures have no artifacts
    "sql": "textarea",
}
CHART = "[data-testid=stVegaLiteChart] svg, [data-testid=stVegaLiteChart] canvas"


def measure(directory: Path) -> Iterator[Figure]:
    """Every page, opened in a browser that has never been there, and what a click changes."""
    big.fill(directory / "metrics")
    with dashboard(directory) as url, chromium() as browser:
        for path in PATHS:
            seconds = [open_page(browser, f"{url}/{path}", CONTENT.get(path, CHART)) for _ in range(TIMES)]
            yield Figure(f"open /{path}", seconds)
        yield from filter_results(browser, url)
        yield from constrain_tradeoffs(browser, url)
        yield from choose_metrics(browser, url)


def open_page(browser: Browser, url: str, content: str) -> float:
    """Seconds from the address to the page's content."""
    with visit(browser) as visitor:

        def act() -> None:
            visitor.page.goto(url, timeout=1000 * PATIENCE_S)
            visitor.page.locator(content).first.wait_for(timeout=1000 * PATIENCE_S)

        return time_action(act)


def filter_results(browser: Browser, url: str) -> Iterator[Figure]:
    """Seconds from the choice of a label to the table of its variants."""
    with visit(browser) as visitor:
        page = visitor.open(f"{url}/?show=as+published")
        table = page.locator(".sheet tbody")
        for option, line in (("repaired", "^int8, "), ("as published", "^quantized, "), ("repaired", "^int8, ")):
            act = page.get_by_test_id("stRadio").get_by_text(option, exact=True).click
            seconds = time_until(act, table.get_by_role("rowheader", name=re.compile(line)))
            yield Figure(f"Results: {option}", [seconds])
            visitor.settled()


def constrain_tradeoffs(browser: Browser, url: str) -> Iterator[Figure]:
    """Seconds from a constraint that no variant keeps to the recommendation."""
    with visit(browser) as visitor:
        page = visitor.open(f"{url}/trade-offs")
        slider = page.get_by_role("slider", name="Disk at most")
        seconds = time_until(lambda: slider.press("Home"), page.get_by_text("Ship none"))
        yield Figure("Trade-offs: a constraint", [seconds])


def choose_metrics(browser: Browser, url: str) -> Iterator[Figure]:
    """Seconds from the choice of a metric to its chart."""
    with visit(browser) as visitor:
        page = visitor.open(f"{url}/history")
        for metric, title in (("es", "edit similarity"), ("memory_mb", "peak memory, MB")):
            act = partial(choose, page, "Metric", metric)
            chart = page.locator("[data-testid=stVegaLiteChart]").get_by_text(title)
            yield Figure(f"History: {metric}", [time_until(act, chart)])


def choose(page: Page, label: str, option: str) -> None:
    """Type an option into a list, and take it."""
    box = page.get_by_role("combobox", name=label)
    box.fill(option)
    box.press("Enter")


def time_until(act: Callable[[], object], appears: Locator) -> float:
    """Seconds from an act to what it makes appear."""
    started = time.perf_counter()
    act()
    appears.first.wait_for(timeout=1000 * PATIENCE_S)
    return time.perf_counter() - started
