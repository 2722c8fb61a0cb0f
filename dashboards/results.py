"""The page Results: the table of a run, host by host, beside the published figures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pyarrow as pa
import streamlit as st
from streamlit.navigation.page import Page

from dashboards import charting, choosing
from dashboards.downloads import downloads, parquet
from dashboards.markup import marked_tables
from dashboards.reading import Row
from storage import charts
from storage.tables import render

ALL, PUBLISHED, REPAIRED = "all", "as published", "repaired"
BASELINE = "baseline"


def page_link() -> Page:
    """The page, for the menu and for links to it."""
    return st.Page(page, title="Results", default=True)


def page() -> None:
    """Draw it."""
    st.title("Results")
    run = choosing.choose_run()
    found = choosing.results_of(run)
    host = choosing.choose_host(choosing.hosts_of(found), every=True)
    shown = st.radio("Variants", [ALL, PUBLISHED, REPAIRED], horizontal=True, key="show", bind=choosing.IN_ADDRESS)
    rows = [row for row in found if host in (choosing.EVERY_HOST, row["host"]) and _belongs(row, shown)]
    _warn(rows)
    st.html(marked_tables(rows))
    _save(run, rows)
    for name in choosing.hosts_of(rows):
        st.header(f"Speed on {name}")
        charting.draw(charts.speedups([row for row in rows if row["host"] == name]), key=f"speed-{name}")


def _belongs(row: Row, shown: str) -> bool:
    """The baseline is what the others are compared with, so it is in every choice."""
    published = row["label"] == PUBLISHED
    return shown == ALL or row["label"] == BASELINE or published == (shown == PUBLISHED)


def _warn(rows: Sequence[Row]) -> None:
    for host in dict.fromkeys(row["host"] for row in rows if row["tainted"]):
        st.warning(f"{host} was too noisy to trust its speeds: the baseline differed from itself by more than 5 %.")


def _save(run: str, rows: Sequence[Row]) -> None:
    forms = {form: partial(render, rows, form) for form in ("csv", "latex", "md", "html", "json")}
    downloads(f"slimline-{run}", {**forms, "parquet": lambda: parquet(pa.Table.from_pylist(list(rows)))})
