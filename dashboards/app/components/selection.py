"""Choices that several pages share. Each is a parameter of the page's address, so that a link says what it shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NoReturn, TypeVar

import streamlit as st

from slimline.dashboards.app import data
from slimline.storage.queries.results import NotMeasuredError, ResultRow
from slimline.storage.queries.runs import RunSummary, run_summaries

Host = TypeVar("Host", bound=str | None)

IN_ADDRESS: Final = "query-params"
NEWEST = "newest"
NO_RUN = """
Nothing has been measured yet. Fill the store, then reload this page:

```sh
slimline run smoke
```
"""


def choose_run() -> str:
    """The run that the visitor chose, by default a study's newest with results; a page without any run ends here."""
    study = choose_study()
    of_study = [each for each in _runs() if each.study == study]
    newest = newest_with_results(of_study).run
    chosen: str = st.sidebar.selectbox(
        "Run",
        [NEWEST, *(each.run for each in of_study)],
        format_func=lambda name: f"newest: {newest}" if name == NEWEST else name,
        key="run",
        bind=IN_ADDRESS,
    )
    return newest if chosen == NEWEST else chosen


def choose_study() -> str:
    """One of the studies that were run, by default the newest run's; a page without any run ends here."""
    runs = _runs()
    studies = list(dict.fromkeys(each.study for each in runs))
    # A link to a run may leave its study out, because that was the default when the link was made.
    linked = [each.study for each in runs if each.run == st.query_params.get("run")]
    default = studies.index(linked[0] if linked else newest_with_results(runs).study)
    chosen: str = st.sidebar.selectbox("Study", studies, index=default, key="study", bind=IN_ADDRESS)
    return chosen


def _runs() -> list[RunSummary]:
    return data.ask(run_summaries) or end_page(NO_RUN)


def newest_with_results(runs: Sequence[RunSummary]) -> RunSummary:
    """The newest run that measured anything; if none did, the newest."""
    return next((each for each in runs if each.has_results), runs[0])


def results_of(run: str) -> list[ResultRow]:
    """The run's result rows; a page without any ends here, with the reason."""
    try:
        return data.results(run)
    except NotMeasuredError as reason:
        st.warning(str(reason))
        st.stop()


def choose_host(hosts: Iterable[Host]) -> Host:
    """One of these hosts, by default the first."""
    return st.sidebar.selectbox("Host", list(dict.fromkeys(hosts)), key="host", bind=IN_ADDRESS)


def end_page(text: str) -> NoReturn:
    """End the page with a text that says what is missing and how to get it."""
    st.info(text)
    st.stop()
