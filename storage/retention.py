"""Which artifacts are still needed, and the removal of the others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from slimline.storage.artifacts.store import ArtifactError, ArtifactRef, ArtifactStore
from slimline.storage.metrics.store import MetricsStore

_MEASURED = """
    SELECT DISTINCT artifact FROM measurements
    WHERE artifact IS NOT NULL AND run IN (SELECT arg_max(run, started) FROM runs GROUP BY study, host)
"""


def collect_garbage(
    store: ArtifactStore, metrics: MetricsStore, keep_hours: float = 24, dry_run: bool = False
) -> list[ArtifactRef]:
    """Remove what the newest run of every study on every host neither measured nor was made of; return what went.

    What is younger than `keep_hours` stays: a run that is building has it in no table yet.
    """
    with metrics.connect() as connection:
        used = {digest for (digest,) in connection.execute(_MEASURED).fetchall()}
    since = datetime.now(UTC) - timedelta(hours=keep_hours)
    keep = [ref for ref in store.list() if _is_in_use(ref, used, since, store)]
    return list(store.gc(keep, dry_run=dry_run))


def _is_in_use(ref: ArtifactRef, used: set[str], since: datetime, store: ArtifactStore) -> bool:
    try:
        provenance = store.provenance(ref)
    except ArtifactError:
        return False
    measured = {ref.digest} if ref.kind != "predictions" else {model.digest for model in provenance.inputs}
    return provenance.created >= since or bool(measured & used)
