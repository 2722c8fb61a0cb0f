"""The dashboard's pages, in the order of its menu."""

from __future__ import annotations

import streamlit as st

from slimline.dashboards import PATHS
from slimline.dashboards.app import data
from slimline.dashboards.app.components import selection
from slimline.dashboards.app.views import compare, history, lineage, results, sql, tradeoffs
from slimline.dashboards.reports import charts
from slimline.storage.queries.runs import run_summaries
from slimline.tasks.analysis.statistics import mcnemar

ABOUT = "slimline: which compressed code model to ship. This dashboard only reads, and reaches nothing but the store."
OTHER_PAGES = {
    "Trade-offs": tradeoffs.page,
    "History": history.page,
    "Compare": compare.page,
    "Lineage": lineage.page,
    "SQL": sql.page,
}


def show() -> None:
    """Draw the page that the address names."""
    st.set_page_config(page_title="slimline", layout="wide", menu_items={"About": ABOUT})
    # Without icons: Streamlit would have the browser fetch the page's from the network.
    others = [
        st.Page(page, title=title, url_path=path)
        for path, (title, page) in zip(PATHS[1:], OTHER_PAGES.items(), strict=True)
    ]
    st.navigation([results.page_link(), *others]).run()


def fill_caches() -> None:
    """Read and draw what the first visitor sees, so that nobody waits for what only the first time takes."""
    mcnemar([True], [False])  # the first call imports scipy.stats: seconds, which Compare would wait for
    runs = data.ask(run_summaries)
    if any(each.has_results for each in runs):
        rows = data.results(selection.newest_with_results(runs).run)
        charts.speedups(rows).to_dict()
