"""Where the stores are, said in one place: the state directory, or a URL that several machines share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from slimline.storage import fs
from slimline.storage.extras import missing_extra
from slimline.storage.paths import home

if TYPE_CHECKING:
    from slimline.storage.artifacts.store import ArtifactStore
    from slimline.storage.metrics.store import MetricsStore


ROOM_BYTES = 200_000_000
"""What a run needs at least: Prefect's database, and a model or two."""


def store_url() -> str:
    """What the stores lie below: SLIMLINE_STORE (a directory, or a URL like s3://bucket/slimline), else home()."""
    return _absolute(os.environ.get("SLIMLINE_STORE", "") or str(home()))


def _absolute(store: str) -> str:
    store = store.rstrip("/")
    return store if "://" in store else str(Path(store).expanduser().absolute())


def artifact_store(store: str | None = None) -> ArtifactStore:
    """What was built: in the store that is chosen, or in another one.

    Raises:
        ValueError: it is no directory and no URL of a known kind.
    """
    from slimline.storage.artifacts.store import ArtifactStore

    with _named(store):
        return ArtifactStore(f"{_absolute(store) if store else store_url()}/artifacts")


def metrics_store() -> MetricsStore:
    """What was measured.

    Raises:
        ValueError: SLIMLINE_STORE is no directory and no URL of a known kind.
    """
    from slimline.storage.metrics.store import MetricsStore  # imports DuckDB, which not every command needs

    with _named(None):
        return MetricsStore(f"{store_url()}/metrics")


@contextmanager
def _named(store: str | None) -> Iterator[None]:
    """Say of which setting an error is; that of an extra that is not installed says enough."""
    try:
        yield
    except (ValueError, ImportError) as error:
        if missing_extra(error):
            raise
        allowed = "allowed: a directory, or a URL such as s3://bucket/slimline"
        raise ValueError(f"{store or f'SLIMLINE_STORE: {store_url()}'}: {error}; {allowed}") from error


def require_writable() -> None:
    """See that the state directory and the stores can be written to, before anything is computed.

    Raises:
        ValueError: one of them cannot; the message names it.
    """
    fs.require_room(home(), "SLIMLINE_HOME", ROOM_BYTES)
    if "://" not in store_url() and store_url() != str(home()):
        fs.require_room(Path(store_url()), "SLIMLINE_STORE", ROOM_BYTES)
