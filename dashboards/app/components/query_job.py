"""A query that runs in a thread of its own, so that its page can be used meanwhile, and can stop it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from slimline.storage.metrics.sandbox import Limits, ask
from slimline.storage.metrics.store import MetricsStore, QueryError

if TYPE_CHECKING:
    import pyarrow as pa

LIMITS = Limits(seconds=30.0)


class Job:
    """One query of a visitor, from its start to its answer or error."""

    def __init__(self, store: MetricsStore, sql: str) -> None:
        self.sql = sql
        self.answer: pa.Table | None = None
        self.error: str | None = None
        self.seconds = 0.0
        """How long it took, once it has ended."""
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(store,), daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Stop the query, if it still runs."""
        self._cancelled.set()

    def wait(self, seconds: float) -> bool:
        """Wait at most so long for the end of the query; whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self, store: MetricsStore) -> None:
        started = time.monotonic()
        try:
            self.answer = ask(store.url, self.sql, LIMITS, self._cancelled)
        except QueryError as reason:
            self.error = str(reason)
        self.seconds = time.monotonic() - started
