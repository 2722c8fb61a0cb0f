"""What garbage collection keeps."""

from datetime import UTC, datetime, timedelta

from slimline.storage.artifacts.store import ArtifactStore
from slimline.storage.metrics.store import MetricsStore
from slimline.storage.retention import collect_garbage
from tests.storage.factories import measured, run_row


def test_what_is_measured_or_young_stays(tmp_path, tree, provenance):
    store, metrics = ArtifactStore(tmp_path / "artifacts"), MetricsStore(tmp_path / "metrics")
    long_ago = datetime.now(UTC) - timedelta(days=3)
    refs = []
    for number, created in enumerate((long_ago, long_ago, datetime.now(UTC))):
        (tree / "config.json").write_text(f'{{"number": {number}}}')
        refs.append(store.publish(tree, "model", provenance.model_copy(update={"created": created})))
    used, unused, young = refs
    metrics.append([run_row()])
    metrics.append([measured("original", "es", 50.0, artifact=used.digest)])
    assert collect_garbage(store, metrics, dry_run=True) == [unused]
    assert set(store.list()) == {used, unused, young}
    assert collect_garbage(store, metrics) == [unused]
    assert collect_garbage(store, metrics, keep_hours=0) == [young]
    assert store.list() == [used]
