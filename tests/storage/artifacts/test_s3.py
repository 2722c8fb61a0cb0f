"""The stores over a real S3 server on loopback."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from slimline.storage.artifacts.store import ArtifactStore, CorruptArtifactError, MissingArtifactError
from slimline.storage.metrics.store import MetricsStore, QueryError
from slimline.storage.queries.results import result_rows
from tests.command import program_command, run_command
from tests.storage.factories import contents, measured, run_row

pytestmark = pytest.mark.e2e
APPEND = Path(__file__).parents[1] / "metrics" / "programs" / "append_predictions.py"


def test_artifacts(s3, tree, provenance, tmp_path):
    store = ArtifactStore(f"{s3}/artifacts")
    assert store.list() == []
    ref = store.publish(tree, "model", provenance)
    assert store.publish(tree, "model", provenance) == ref
    assert ArtifactStore(f"{s3}/artifacts").list() == [ref]
    assert contents(store.path(ref)) == contents(tree)
    assert store.provenance(store.find(ref.digest[:8])) == provenance
    store.verify(ref)
    child = store.publish(tree, "onnx", provenance.model_copy(update={"inputs": [ref]}))
    stray = store.publish(tree, "slice", provenance)
    assert store.gc([child]) == [stray]
    with pytest.raises(MissingArtifactError):
        store.verify(stray)
    shutil.rmtree(tmp_path / "cache")
    assert contents(store.path(child)) == contents(tree)


def test_damage_is_found(s3, tree, provenance):
    store = ArtifactStore(f"{s3}/artifacts")
    ref = store.publish(tree, "model", provenance)
    home = f"{s3}/artifacts/model/{ref.digest}"
    fs = store._backend.fs
    fs.pipe_file(f"{home}/files/config.json", b"[]")
    with pytest.raises(CorruptArtifactError, match=r"config\.json.*SHA-256"):
        store.verify(ref)
    fs.rm_file(f"{home}/files/config.json")
    with pytest.raises(CorruptArtifactError, match=r"config\.json.*manifest.*no such file"):
        store.path(ref)
    assert store.publish(tree, "model", provenance) == ref
    store.verify(ref)
    fs.rm_file(f"{home}/manifest.json")
    assert store.list() == []


def test_metrics(s3):
    store = MetricsStore(f"{s3}/metrics")
    assert store.query("FROM measurements").num_rows == 0
    store.append([run_row()])
    for number in range(3):
        store.append([measured("original", metric, float(number)) for metric in ("es", "em")])
    other = MetricsStore(f"{s3}/metrics")
    answer = other.query("SELECT metric, sum(value) AS total FROM measurements WHERE metric = 'es' GROUP BY metric")
    assert answer.to_pylist() == [{"metric": "es", "total": 3.0}]
    assert other.compact("measurements") == 3
    assert store.query("SELECT count(*) AS n FROM measurements").to_pylist() == [{"n": 6}]
    assert [row.variant for row in result_rows(store)] == ["original"]
    assert store.query("FROM versus_published").num_rows == 2
    with pytest.raises(QueryError, match="disabled by configuration"):
        store.query("FROM read_csv('/etc/passwd')")


def test_writers_in_other_processes_lose_nothing(s3):
    root = f"{s3}/metrics"
    writers = [subprocess.Popen(program_command(APPEND, root, f"w{number}", 3)) for number in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    answer = MetricsStore(root).query("SELECT count(*) AS n, count(DISTINCT (run, sample)) AS d FROM predictions")
    assert answer.to_pylist() == [{"n": 18, "d": 18}]


TINY = """
data: {train_files: 40, dev_files: 8, samples: 4}
variants:
  original: {label: baseline, recipe: [{step: export-onnx}, {step: engine, name: onnxruntime}]}
measuring: {rounds: 1, speed_samples: 1, pair_seconds: 0, warmup_samples: 1, decoding: {max_new_tokens: 4}}
"""


@pytest.mark.long
def test_what_one_machine_measures_another_reads(s3, prepared_home, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    shutil.copytree(prepared_home, ours, ignore=shutil.ignore_patterns("artifacts"))
    run_command("run", str(tmp_path / "tiny.yaml"), home=ours, SLIMLINE_STORE=s3)
    printed = run_command("table", "--format", "json", home=theirs, SLIMLINE_STORE=f"{s3}/").stdout
    (row,) = json.loads(printed)
    assert (row["study"], row["variant"], row["error"]) == ("tiny", "original", None)
    assert row["artifact"][:12] in run_command("artifacts", "list", home=theirs, SLIMLINE_STORE=s3).stdout
    assert not any((home / name).exists() for home in (ours, theirs) for name in ("artifacts", "metrics"))
