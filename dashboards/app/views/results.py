"""The page Results: the table of a run, host by host, beside the published figures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from html import escape

import pyarrow as pa
import streamlit as st
from streamlit.navigation.page import Page

from slimline.dashboards.app.components import chart, selection
from slimline.dashboards.app.components.downloads import draw_downloads
from slimline.dashboards.reports import charts
from slimline.dashboards.reports.formats import render
from slimline.dashboards.reports.query_answer import parquet
from slimline.dashboards.reports.result_table import html, rows_by_host, sheets
from slimline.storage.queries.results import ResultRow

STYLE = """
<style>
.sheet { overflow-x: auto; margin-bottom: 1.5rem; }
.sheet table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
.sheet table { font-size: 0.9rem; line-height: 1.25; }
.sheet caption { text-align: left; padding: 0.25rem 0; font-weight: 600; }
.sheet th, .sheet td { padding: 0.3rem 0.6rem; border-bottom: 1px solid rgba(128, 128, 128, 0.35); text-align: right; }
.sheet th:first-child, .sheet tfoot td { text-align: left; white-space: nowrap; }
.sheet small { font-size: 0.8em; }
.sheet td { white-space: nowrap; font-weight: 400; }
.sheet td strong { font-weight: 800; }
.sheet tbody th { font-weight: 500; }
.sheet tr.published th { padding-left: 2rem; }
.sheet tr.published > * { font-style: italic; border-bottom-style: dashed; }
.sheet tfoot td { border: 0; white-space: normal; font-size: 0.8rem; }
</style>
"""
ALL, PUBLISHED, REPAIRED = "all", "as published", "repaired"
BASELINE = "baseline"
EVERY_HOST = "all hosts"


def page_link() -> Page:
    """The page, for the menu and for links to it."""
    return st.Page(page, title="Results", default=True)


def page() -> None:
    """Draw it."""
    st.title("Results")
    run = selection.choose_run()
    found = selection.results_of(run)
    host = selection.choose_host([EVERY_HOST, *(row.host for row in found)])
    choice = st.radio("Variants", [ALL, PUBLISHED, REPAIRED], horizontal=True, key="show", bind=selection.IN_ADDRESS)
    rows = [row for row in found if host in (EVERY_HOST, row.host) and _is_chosen(row, choice)]
    _warn(rows)
    st.html(tables_html(rows))
    _draw_downloads(run, rows)
    for name, its_rows in rows_by_host(rows).items():
        st.header(f"Speed on {name}")
        chart.draw(charts.speedups(its_rows), key=f"speed-{name}")


def _is_chosen(row: ResultRow, choice: str) -> bool:
    """Whether a variant belongs to a choice; the baseline belongs to each, as the others are compared with it."""
    return choice == ALL or row.label == BASELINE or (row.label == PUBLISHED) == (choice == PUBLISHED)


def _warn(rows: Sequence[ResultRow]) -> None:
    for host in dict.fromkeys(row.host for row in rows if row.tainted):
        st.warning(f"{host} was too noisy to trust its speeds: the baseline differed from itself by more than 5 %.")


def tables_html(rows: Sequence[ResultRow]) -> str:
    """The tables of these rows, one a host."""
    # A region that can be scrolled has to be reachable with the keyboard, and then needs a name.
    region = '<div class="sheet" role="region" tabindex="0" aria-label="{}">\n{}</div>'
    return STYLE + "\n".join(region.format(escape(sheet.caption), html(sheet)) for sheet in sheets(rows))


def _draw_downloads(run: str, rows: Sequence[ResultRow]) -> None:
    forms = {form: partial(render, rows, form) for form in ("csv", "latex", "md", "html", "json")}
    as_parquet = partial(_parquet, rows)
    draw_downloads(f"slimline-{run}", {**forms, "parquet": as_parquet})


def _parquet(rows: Sequence[ResultRow]) -> bytes:
    return parquet(pa.Table.from_pylist([row.flat() for row in rows]))
