"""What the pages read, cached for as long as the store's files are the same; all visitors share it.

Answers are frozen rows, so they are shared without a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import duckdb
import streamlit as st

from slimline.storage.metrics.store import READ_ATTEMPTS, MetricsStore
from slimline.storage.queries.results import ResultRow, result_rows
from slimline.storage.stores import artifact_store, metrics_store

if TYPE_CHECKING:
    from slimline.storage.artifacts.store import ArtifactStore

P = ParamSpec("P")
T = TypeVar("T")

LISTING_S = 2  # seconds; the queries of one click share a listing of the files
MOST_ANSWERS = 300


@st.cache_resource(show_spinner=False)
def metrics() -> MetricsStore:
    """What was measured."""
    return metrics_store()


@st.cache_resource(show_spinner=False)
def artifacts() -> ArtifactStore:
    """What was built."""
    return artifact_store()


@st.cache_data(ttl=LISTING_S, show_spinner=False)
def store_state() -> tuple[str, ...]:
    """The files with the store's rows, as they were at most LISTING_S seconds ago."""
    return tuple(name for names in metrics().files().values() for name in names)


def ask(query: Callable[Concatenate[duckdb.DuckDBPyConnection, P], T], *values: P.args, **options: P.kwargs) -> T:
    """The answer of a function of `storage.queries` to these values.

    Raises:
        duckdb.IOException: files vanished, as merging replaces them, in each of READ_ATTEMPTS attempts.
    """
    attempts = 1
    while True:
        try:
            answer: T = _answer(store_state(), query, values, options)
            return answer
        except duckdb.IOException:
            store_state.clear()
            attempts += 1
            if attempts > READ_ATTEMPTS:
                raise


def _query_name(query: FunctionType) -> str:
    return f"{query.__module__}.{query.__qualname__}"


@st.cache_resource(max_entries=MOST_ANSWERS, show_spinner=False, hash_funcs={FunctionType: _query_name})
def _answer(
    state: Sequence[str], query: Callable[..., Any], values: Sequence[object], options: Mapping[str, object]
) -> Any:
    # Without the query's types, which the cache's decorator cannot keep; `ask` has them.
    with _connection(state).cursor() as cursor:
        return query(cursor, *values, **options)


@st.cache_resource(max_entries=2, show_spinner=False)
def _connection(state: Sequence[str]) -> duckdb.DuckDBPyConnection:
    # Opening it reads the head of every file; each query takes a cursor of its own, as threads must not share one.
    return metrics().connect()


def results(run: str) -> list[ResultRow]:
    """The result rows of a run.

    Raises:
        NotMeasuredError: it is not stored, or measured nothing.
    """
    return _results(store_state(), run)


@st.cache_resource(max_entries=MOST_ANSWERS, show_spinner=False)
def _results(state: Sequence[str], run: str) -> list[ResultRow]:
    return result_rows(metrics(), run=run)
