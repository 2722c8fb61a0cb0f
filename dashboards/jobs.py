"""A query that runs beside its page, so that the page can say how long it takes and stop it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from storage.metrics import MetricsStore, QueryRefused

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

SECONDS = 30.0


class Job:
    """One query of a visitor, from its start to its answer or the reason why there is none."""

    def __init__(self, store: MetricsStore, sql: str) -> None:
        self.sql = sql
        self.answer: pa.Table | None = None
        self.error: str | None = None
        self.started = time.monotonic()
        self.seconds: float | None = None
        """How long it took, once it has ended."""
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(store,), daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Stop the query, if it still runs."""
        self._cancelled.set()
        if self._connection is not None:
            self._connection.interrupt()

    def wait(self, seconds: float) -> bool:
        """Wait for the end, at most so long; whether it has come."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self, store: MetricsStore) -> None:
        try:
            self.answer = store.query(self.sql, SECONDS, self._begin)
        except QueryRefused as reason:
            self.error = "the query was cancelled" if self._cancelled.is_set() else str(reason)
        finally:
            self._connection = None
            self.seconds = time.monotonic() - self.started

    def _begin(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        if self._cancelled.is_set():
            raise QueryRefused("the query was cancelled")
