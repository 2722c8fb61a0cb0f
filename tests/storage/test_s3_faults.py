"""The stores over an S3 server that is busy, slow, and cuts connections: what is said to be done is done, once."""

import pytest
import s3fs

from slimline.storage.artifacts.store import ArtifactError, ArtifactStore
from slimline.storage.metrics.store import MetricsStore
from tests.storage.factories import measured
from tests.unreliable import FAULTS, unreliable

pytestmark = [pytest.mark.e2e, pytest.mark.long]

SHARE = 0.25
TIMES = 12


def until_done(action):
    """What the action gives in the end: a person would call the command again."""
    for _ in range(50):
        try:
            return action()
        except (OSError, ArtifactError) as error:
            assert str(error)
    raise AssertionError("never done")


@pytest.fixture
def bad_days(s3, s3_url, monkeypatch):
    """Makes the server unreliable; afterwards it is as it was."""
    with unreliable(s3_url, SHARE, seed=2) as (url, counts):

        def begin():
            monkeypatch.setenv("AWS_ENDPOINT_URL", url)
            s3fs.S3FileSystem.clear_instance_cache()

        def end():
            monkeypatch.setenv("AWS_ENDPOINT_URL", s3_url)
            s3fs.S3FileSystem.clear_instance_cache()
            assert all(counts[fault] for fault in FAULTS), counts

        yield begin, end
    s3fs.S3FileSystem.clear_instance_cache()


def test_artifacts(s3, bad_days, tree, provenance, tmp_path):
    begin, end = bad_days
    begin()
    made = []
    for number in range(TIMES):
        (tree / "config.json").write_text(f"[{number}]")
        made.append(until_done(lambda: ArtifactStore(f"{s3}/artifacts").publish(tree, "model", provenance)))
    store = until_done(lambda: ArtifactStore(f"{s3}/artifacts"))
    for ref in made:
        assert until_done(lambda ref=ref: store.path(ref) / "config.json").exists()
    kept = made[: TIMES // 2]
    until_done(lambda: store.gc(kept))
    other = ArtifactStore(tmp_path / "local")
    extra = other.publish(tree, "onnx", provenance)
    until_done(lambda: list(other.send([extra], store)))
    end()
    store = ArtifactStore(f"{s3}/artifacts")
    assert {ref for ref, problem in store.verify_all() if not problem} == {*kept, extra}
    assert not [problem for _, problem in store.verify_all() if problem]


def test_metrics(s3, bad_days):
    begin, end = bad_days
    begin()
    root = f"{s3}/metrics"

    def rows_of(variant):
        found = MetricsStore(root).query("SELECT variant, count(*) AS n FROM measurements GROUP BY ALL").to_pylist()
        return {row["variant"]: row["n"] for row in found}.get(variant, 0)

    def append(variant):
        if not rows_of(variant):  # as a run does that goes on
            MetricsStore(root).append([measured(variant, metric, 1.0) for metric in ("es", "em")])

    for number in range(TIMES):
        until_done(lambda number=number: append(f"v{number}"))
        if number % 4 == 3:
            until_done(lambda: MetricsStore(root).compact("measurements"))
    end()
    store = MetricsStore(root)
    assert store.query("SELECT count(*) AS n FROM measurements").to_pylist() == [{"n": 2 * TIMES}]
    assert not store.inspect(again=True).problems
