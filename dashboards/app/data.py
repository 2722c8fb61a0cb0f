"""What the pages read, kept for as long as the store's files are the same: any visitor's answer is the next one's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import duckdb
import streamlit as st

from slimline.storage.metrics.store import READ_ATTEMPTS, MetricsStore
from slimline.storage.queries.results import result_rows
from slimline.storage.stores import artifact_store, metrics_store

if TYPE_CHECKING:
    from slimline.storage.artifacts.store import ArtifactStore

Row = dict[str, Any]
LISTED_FOR_S = 2  # a click's queries share one listing of the store's files
ANSWERS_KEPT = 300


@st.cache_resource(show_spinner=False)
def metrics() -> MetricsStore:
    """What was measured."""
    return metrics_store()


@st.cache_resource(show_spinner=False)
def artifacts() -> ArtifactStore:
    """What was built."""
    return artifact_store()


@st.cache_data(ttl=LISTED_FOR_S, show_spinner=False)
def store_state() -> tuple[str, ...]:
    """The files with the store's rows, as they were at most LISTED_FOR_S seconds ago."""
    return tuple(name for names in metrics().files().values() for name in names)


def ask(sql: str, *parameters: object) -> list[Row]:
    """The rows that answer a query of ours, with `?` for each parameter.

    Raises duckdb.IOException if files vanish, as merging replaces them, as often as one tries.
    """
    for _ in range(READ_ATTEMPTS - 1):
        try:
            return _answer(store_state(), sql, parameters)
        except duckdb.IOException:
            store_state.clear()
    return _answer(store_state(), sql, parameters)


@st.cache_data(max_entries=ANSWERS_KEPT, show_spinner=False)
def _answer(state: Sequence[str], sql: str, parameters: Sequence[object]) -> list[Row]:
    with _connection(state).cursor() as cursor:
        found = cursor.execute(sql, list(parameters))
        names = [column[0] for column in found.description]
        return [dict(zip(names, values, strict=True)) for values in found.fetchall()]


@st.cache_resource(max_entries=2, show_spinner=False)
def _connection(state: Sequence[str]) -> duckdb.DuckDBPyConnection:
    # Opening it reads the head of every file; each query takes a cursor of its own, as threads must not share one.
    return metrics().connect()


def runs() -> list[Row]:
    """Every run, the newest first: run, study, started, and whether it measured anything."""
    return ask(
        "SELECT run, any_value(study) AS study, min(started) AS started, "
        "run IN (SELECT DISTINCT run FROM measurements) AS measured "
        "FROM runs GROUP BY run ORDER BY started DESC, run DESC"
    )


def results(run: str) -> list[Row]:
    """A run's rows of the result table, with the published figures. Raises NotMeasured."""
    return _results(store_state(), run)


@st.cache_data(max_entries=ANSWERS_KEPT, show_spinner=False)
def _results(state: Sequence[str], run: str) -> list[Row]:
    return result_rows(metrics(), run=run)
