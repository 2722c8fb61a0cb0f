"""Choices that several pages share. Each is a parameter of the page's address, so that a link says what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NoReturn

import streamlit as st

from slimline.dashboards.app import data
from slimline.dashboards.app.data import Row
from slimline.storage.queries.results import NotMeasured

IN_ADDRESS: Final = "query-params"
NEWEST = "newest"
EVERY_HOST = "all hosts"
NOTHING_YET = """
Nothing has been measured yet. Fill the store, then reload this page:

```sh
slimline run smoke
```
"""


def choose_run() -> str:
    """The run that the visitor chose, by default a study's newest with figures; a page without any run ends here."""
    runs = data.runs()
    if not runs:
        empty(NOTHING_YET)
    study = choose_study()
    of_study = [row for row in runs if row["study"] == study]
    newest: str = newest_measured(of_study)["run"]
    chosen: str = st.sidebar.selectbox(
        "Run",
        [NEWEST, *(row["run"] for row in of_study)],
        format_func=lambda name: f"newest: {newest}" if name == NEWEST else name,
        key="run",
        bind=IN_ADDRESS,
    )
    return newest if chosen == NEWEST else chosen


def choose_study() -> str:
    """One of the studies that were run, by default the newest run's."""
    runs = data.runs()
    if not runs:
        empty(NOTHING_YET)
    studies = list(dict.fromkeys(row["study"] for row in runs))
    # A link to a run may leave its study out, because that was the default when the link was made.
    linked = [row["study"] for row in runs if row["run"] == st.query_params.get("run")]
    default = studies.index(linked[0] if linked else newest_measured(runs)["study"])
    chosen: str = st.sidebar.selectbox("Study", studies, index=default, key="study", bind=IN_ADDRESS)
    return chosen


def newest_measured(runs: Sequence[Row]) -> Row:
    """The newest run that measured anything, or if none did the newest."""
    return next((row for row in runs if row["measured"]), runs[0])


def results_of(run: str) -> list[Row]:
    """The run's rows of the result table; a page without any ends here, with the reason."""
    try:
        return data.results(run)
    except NotMeasured as reason:
        st.warning(str(reason))
        st.stop()


def choose_host(hosts: Sequence[str], every: bool = False) -> str:
    """One of these hosts, or with `every` by default all of them."""
    options = [EVERY_HOST, *hosts] if every else list(hosts)
    return st.sidebar.selectbox("Host", options, key="host", bind=IN_ADDRESS)


def hosts_of(rows: Sequence[Row]) -> list[str]:
    """The hosts of these rows, each once."""
    return list(dict.fromkeys(row["host"] for row in rows))


def empty(text: str) -> NoReturn:
    """End the page, saying what is missing and how to get it."""
    st.info(text)
    st.stop()
