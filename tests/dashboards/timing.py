"""How long a visitor waits, over a million measurements: `python -m tests.dashboards.timing`."""

import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from playwright.sync_api import Locator, Page

from slimline.dashboards import PATHS
from tests.dashboards import big
from tests.dashboards.browser import PATIENCE_MS, Visit, chromium, dashboard, visit

TIMES = 3
# What a page is opened for: the table, the chart, or what says that there is a query to write.
CONTENT = {
    "": ".sheet td strong",
    "lineage": "[data-testid=stAlert]",  # generated figures have no artifacts
    "sql": "textarea",
}
CHART = "[data-testid=stVegaLiteChart] svg, [data-testid=stVegaLiteChart] canvas"


def main() -> None:
    """Print a Markdown table: seconds, median and slowest."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        big.fill(home / "metrics")
        with dashboard(home) as url, chromium() as browser:
            print(f"| {big.MEASUREMENTS:,} measurements, {TIMES} times | median s | slowest s |\n| --- | ---: | ---: |")
            for path in PATHS:
                seconds = []
                for _ in range(TIMES):
                    with visit(browser) as visitor:
                        seconds.append(opening(visitor.page, f"{url}/{path}", CONTENT.get(path, CHART)))
                tell(f"open /{path}", seconds)
            with visit(browser) as visitor:
                filters(visitor, url)
    print(f"\nload average afterwards: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def opening(page: Page, url: str, content: str) -> float:
    """Seconds from the address to the page's content, in a browser that has never been there."""
    started = time.monotonic()
    page.goto(url, timeout=PATIENCE_MS)
    page.locator(content).first.wait_for(timeout=PATIENCE_MS)
    return time.monotonic() - started


def filters(visitor: Visit, url: str) -> None:
    """What changes when something else is chosen, with what then appears."""
    page = visitor.open(f"{url}/?show=as+published")
    table = page.locator(".sheet tbody")
    for option, line in (("repaired", "^int8, "), ("as published", "^quantized, "), ("repaired", "^int8, ")):
        act = page.get_by_test_id("stRadio").get_by_text(option, exact=True).click
        tell(f"Results: {option}", until(act, table.get_by_role("rowheader", name=re.compile(line))))
        visitor.settled()
    page = visitor.open(f"{url}/trade-offs")
    slider = page.get_by_role("slider", name="Disk at most")
    tell("Trade-offs: a constraint", until(lambda: slider.press("Home"), page.get_by_text("Ship none")))
    page = visitor.open(f"{url}/history")
    for metric, title in (("es", "edit similarity"), ("memory_mb", "peak memory, MB")):
        act = partial(pick, page, "Metric", metric)
        tell(f"History: {metric}", until(act, page.locator("[data-testid=stVegaLiteChart]").get_by_text(title)))


def pick(page: Page, label: str, option: str) -> None:
    """Type an option into a list, and take it."""
    box = page.get_by_role("combobox", name=label)
    box.fill(option)
    box.press("Enter")


def until(act: Callable[[], None], appears: Locator) -> list[float]:
    """Seconds from an act to what it makes appear."""
    started = time.monotonic()
    act()
    appears.first.wait_for(timeout=PATIENCE_MS)
    return [time.monotonic() - started]


def tell(what: str, seconds: list[float]) -> None:
    """One line of the table."""
    print(f"| {what} | {statistics.median(seconds):.2f} | {max(seconds):.2f} |", flush=True)


if __name__ == "__main__":
    main()
