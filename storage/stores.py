"""Where the stores are, said in one place: the state directory, or a URL that several machines share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from slimline.storage.paths import home

if TYPE_CHECKING:
    from slimline.storage.artifacts.store import ArtifactStore
    from slimline.storage.metrics.store import MetricsStore


def store_url() -> str:
    """What the stores lie below: SLIMLINE_STORE (a directory, or a URL like s3://bucket/slimline), else home()."""
    chosen = os.environ.get("SLIMLINE_STORE", "").rstrip("/") or str(home())
    return chosen if "://" in chosen else str(Path(chosen).absolute())


def artifact_store() -> ArtifactStore:
    """What was built."""
    from slimline.storage.artifacts.store import ArtifactStore

    return ArtifactStore(f"{store_url()}/artifacts")


def metrics_store() -> MetricsStore:
    """What was measured."""
    from slimline.storage.metrics.store import MetricsStore  # imports DuckDB, which not every command needs

    return MetricsStore(f"{store_url()}/metrics")
