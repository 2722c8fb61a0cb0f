"""The pictures of docs/dashboard.md, from the runs in SLIMLINE_HOME: `python -m benchmarks.dashboard_pictures`."""

from playwright.sync_api import Page, ViewportSize

from slimline.storage.paths import home
from tests.command import ROOT
from tests.dashboards.browser import chromium, dashboard, visit

PICTURES = ROOT / "docs" / "pictures"
SHOWN = {"results": "", "trade-offs": "trade-offs", "compare": "compare?b=int8"}
SIZE = ViewportSize(width=1280, height=860)


def main() -> None:
    """Write them, the trade-offs in the dark."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with dashboard(home()) as url, chromium() as browser:
        for name, path in SHOWN.items():
            with visit(browser, dark=name == "trade-offs") as visitor:
                visitor.page.set_viewport_size(SIZE)
                page = visitor.open(f"{url}/{path}")
                if name == "compare":
                    page.get_by_role("heading", name="Sample by sample").evaluate("heading => heading.scrollIntoView()")
                take(page, name)


def take(page: Page, name: str) -> None:
    """Write a picture of what is seen, without what still moves."""
    page.screenshot(path=PICTURES / f"dashboard-{name}.png", animations="disabled", caret="hide")


if __name__ == "__main__":
    main()
