"""Opens every page of the dashboard once, as a visitor would, and prints its title."""

from streamlit.testing.v1 import AppTest

for view in ("results", "tradeoffs", "history", "compare", "lineage", "sql"):
    page = AppTest.from_string(f"from slimline.dashboards.app.views import {view}\n{view}.page()", default_timeout=600)
    page.run()
    if page.exception:
        raise SystemExit(f"{view}: {page.exception[0].message}")
    print(page.title[0].value)
