import hashlib
import json
import os
import signal
import subprocess
import threading
import time
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from slimline.storage import fs
from slimline.storage.artifacts.store import (
    ArtifactRef,
    ArtifactStore,
    InvalidArtifactError,
    Manifest,
    MissingArtifactError,
    Provenance,
)
from tests.command import program_command
from tests.storage.factories import contents

MEMORY = "memory://bucket/artifacts"


@pytest.fixture(params=["local", "memory"])
def either(request, store):
    if request.param == "local":
        yield store
        return
    remote = ArtifactStore(MEMORY)
    remote._backend.fs.store.clear()
    yield remote
    remote._backend.fs.store.clear()


def test_what_is_published_comes_back(either, tree, provenance):
    ref = either.publish(tree, "model", provenance)
    assert contents(either.path(ref)) == contents(tree)
    assert either.provenance(ref) == provenance
    assert [entry.path for entry in either.manifest(ref).files] == ["config.json", "deep/er/weights ü.bin", "empty"]
    assert either.list() == [ref]
    either.verify(ref)


def test_the_digest_depends_on_content_and_kind_only(either, tree, provenance):
    ref = either.publish(tree, "model", provenance)
    later = provenance.model_copy(update={"seconds": 9.0})
    assert either.publish(tree, "model", later) == ref
    assert either.provenance(ref).seconds == provenance.seconds
    assert either.publish(tree, "onnx", provenance).digest != ref.digest
    (tree / "config.json").write_text("[]")
    assert either.publish(tree, "model", provenance).digest != ref.digest


def test_the_digest_is_the_canonical_manifests(store, tree, provenance):
    ref = store.publish(tree, "model", provenance)
    files = [entry.model_dump() for entry in store.manifest(ref).files]
    text = json.dumps({"files": files, "kind": "model"}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == ref.digest


def test_a_published_artifact_is_independent_of_its_source(store, provenance):
    with store.stage() as directory:
        (directory / "a").write_text("first")
        ref = store.publish(directory, "slice", provenance)
        (directory / "a").write_text("second")
    assert (store.path(ref) / "a").read_text() == "first"
    assert not directory.exists()
    assert not list((store._backend.root / fs.STAGING).iterdir())


def test_publishing_again_heals_a_corrupt_artifact(either, tree, provenance):
    ref = either.publish(tree, "model", provenance)
    _damage(either, ref)
    assert either.publish(tree, "model", provenance) == ref
    either.verify(ref)


def _damage(store, ref):
    if isinstance(store._backend.root, str):
        store._backend.fs.rm_file(f"{store._backend.root}/{ref.kind}/{ref.digest}/files/config.json")
    else:
        (store.path(ref) / "config.json").unlink()


def test_stage_is_on_the_stores_file_system(store):
    with store.stage() as directory:
        assert directory.stat().st_dev == directory.parent.parent.stat().st_dev
        assert list(directory.iterdir()) == []


def _link(tree):
    (tree / "link").symlink_to("/etc/passwd")


def _linked_directory(tree):
    (tree / "link").symlink_to(tree / "deep", target_is_directory=True)


def _pipe(tree):
    os.mkfifo(tree / "pipe")


def _empty_directory(tree):
    (tree / "hollow").mkdir()


def _backslash(tree):
    (tree / "a\\b").write_text("")


def _not_unicode(tree):
    (tree / os.fsdecode(b"\xff")).write_text("")


def _line_break(tree):
    (tree / "a\nb").write_text("")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_link, r"'link'.*symlink"),
        (_linked_directory, r"'link'.*symlink"),
        (_pipe, r"'pipe'.*special file"),
        (_empty_directory, r"'hollow'.*empty"),
        (_backslash, r"backslash"),
        (_not_unicode, r"not UTF-8"),
        (_line_break, r"control character"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_anything_is_written(either, tree, provenance, spoil, message):
    spoil(tree)
    with pytest.raises(InvalidArtifactError, match=message):
        either.publish(tree, "model", provenance)
    assert either.list() == []


@pytest.mark.parametrize("kind", ["", "Model", "a/b", "..", "a_b", ".staging"])
def test_a_bad_kind_is_refused(store, tree, provenance, kind):
    with pytest.raises(InvalidArtifactError, match="kind"):
        store.publish(tree, kind, provenance)


def test_an_absent_or_empty_directory_is_refused(store, tmp_path, provenance):
    with pytest.raises(InvalidArtifactError, match="nowhere"):
        store.publish(tmp_path / "nowhere", "model", provenance)
    (tmp_path / "void").mkdir()
    with pytest.raises(InvalidArtifactError, match="empty"):
        store.publish(tmp_path / "void", "model", provenance)


@pytest.mark.parametrize("path", ["/a", "../a", "a/../b", "a//b", "./a", "", "a/.", "a\\b", "a\x00"])
def test_a_manifest_cannot_name_an_escaping_path(path):
    with pytest.raises(ValidationError, match="path"):
        Manifest(kind="model", files=[{"path": path, "size": 0, "sha256": "0" * 64}])


def test_a_manifest_is_sorted_and_names_each_file_once():
    one, two = ({"path": path, "size": 0, "sha256": "0" * 64} for path in "ab")
    for files in ([two, one], [one, one], []):
        with pytest.raises(ValidationError):
            Manifest(kind="model", files=files)


def test_provenance_wants_a_time_zone_and_finite_seconds(provenance):
    fields = provenance.model_dump()
    for bad in ({"created": "2026-01-01T00:00:00"}, {"seconds": float("nan")}, {"seconds": -1}, {"surprise": 1}):
        with pytest.raises(ValidationError):
            Provenance(**fields | bad)


def test_find_by_prefix(either, tree, provenance):
    one = either.publish(tree, "model", provenance)
    other = either.publish(tree, "onnx", provenance)
    assert either.find(f"model:{one.digest[:6]}") == one
    assert either.find(other.digest[:12]) == other
    assert either.find(str(one)) == one
    with pytest.raises(MissingArtifactError, match=rf"'model:ffff'.*{one}"):
        either.find("model:ffff")
    with pytest.raises(MissingArtifactError, match=r"'kind:digest'"):
        either.find("../etc")


def test_an_ambiguous_prefix_names_the_candidates(store, provenance, tmp_path):
    refs = []
    while len({ref.digest[0] for ref in refs}) == len(refs):
        (tmp_path / "t").mkdir(exist_ok=True)
        (tmp_path / "t" / "number").write_text(str(len(refs)))
        refs.append(store.publish(tmp_path / "t", "slice", provenance))
    with pytest.raises(MissingArtifactError, match=rf"ambiguous.*{refs[-1]}"):
        store.find(refs[-1].digest[0])


def test_a_store_that_does_not_exist_is_empty_and_stays_absent(store):
    assert store.list() == []
    with pytest.raises(MissingArtifactError, match="none"):
        store.find("ab")
    with pytest.raises(MissingArtifactError, match="model:000000000000"):
        store.path(ArtifactRef(kind="model", digest="0" * 64))
    assert not store._backend.root.exists()


def test_summary(either, tree, provenance):
    summary = either.summary(either.publish(tree, "model", provenance))
    assert (summary.size, summary.files, summary.step, summary.host) == (2562, 3, "pretrain", "here")
    assert summary.created == provenance.created


def test_gc_keeps_ancestors_and_removes_the_rest(either, tree, provenance):
    data = either.publish(tree, "slice", provenance)
    model = either.publish(tree, "model", provenance.model_copy(update={"inputs": [data]}))
    onnx = either.publish(tree, "onnx", provenance.model_copy(update={"inputs": [model]}))
    stray = either.publish(tree, "predictions", provenance.model_copy(update={"inputs": [onnx]}))
    assert either.gc([onnx], dry_run=True) == [stray]
    assert len(either.list()) == 4
    assert either.gc([onnx]) == [stray]
    assert set(either.list()) == {data, model, onnx}
    with pytest.raises(MissingArtifactError):
        either.gc([stray])
    assert len(either.list()) == 3
    assert set(either.gc([])) == {data, model, onnx}
    assert either.list() == []


def test_foreign_entries_in_the_store_are_not_artifacts(either, tree, provenance):
    ref = either.publish(tree, "model", provenance)
    if isinstance(either._backend.root, str):
        either._backend.fs.pipe_file(f"{either._backend.root}/notes/mine/manifest.json", b"{}")
    else:
        (either._backend.root / "notes" / "mine").mkdir(parents=True)
        (either._backend.root / "notes" / "mine" / "manifest.json").write_text("{}")
    assert either.list() == [ref]


def test_many_threads_publish_the_same_content(store, tree, provenance):
    refs = []
    threads = [threading.Thread(target=lambda: refs.append(store.publish(tree, "m", provenance))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refs) == 8
    assert store.list() == [refs[0]]
    store.verify(refs[0])


NAMES = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="/\\"), min_size=1, max_size=40
).filter(lambda name: name not in (".", ".."))
TREES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.binary(max_size=200), min_size=1, max_size=6
)


def _fits(files):
    parents = {"/".join(path.split("/")[:end]) for path in files for end in range(1, path.count("/") + 1)}
    return not parents & set(files)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=TREES.filter(_fits))
def test_any_tree_comes_back(either, tmp_path_factory, provenance, files):
    directory = tmp_path_factory.mktemp("any")
    for path, content in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
    ref = either.publish(directory, "slice", provenance)
    assert contents(either.path(ref)) == files
    assert ref in either.list()
    either.verify(ref)


@pytest.mark.e2e
@pytest.mark.parametrize("after", [0.0, 0.03, 0.08, 0.15])
def test_kill_nine_leaves_a_clean_store(tmp_path, after):
    root = tmp_path / "artifacts"
    program = Path(__file__).with_name("programs") / "publish_artifacts.py"
    process = subprocess.Popen(program_command(program, root), stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    threading.Event().wait(after)
    process.send_signal(signal.SIGKILL)
    announced = process.communicate()[0].split("\n")[:-1]
    store = ArtifactStore(root)
    published = store.list()
    assert set(announced) <= {ref.digest for ref in published}
    for ref in published:
        store.verify(ref)
    with store.stage() as mine:
        assert store.gc(published) == []
        assert [entry.name for entry in (root / fs.STAGING).iterdir()] == [mine.name]


def test_scratch_is_stale_when_its_process_is_gone(tmp_path):
    host, pid, start, number = fs.scratch_name().split(".")
    other = tmp_path / f"{host}.{pid}.{int(start) + 1}.{number}"  # the same pid, given out again
    mine, foreign = tmp_path / f"{host}.{pid}.{start}.{number}", tmp_path / f"elsewhere.{pid}.{start}.{number}"
    for path in (other, mine, foreign):
        path.mkdir()
    assert fs.is_stale(other)
    assert not fs.is_stale(mine)
    assert not fs.is_stale(foreign)
    os.utime(foreign, (0, 0))
    assert fs.is_stale(foreign)


def test_scratch_is_kept_when_the_clock_is_set(tmp_path, monkeypatch):
    mine = tmp_path / fs.scratch_name()
    mine.mkdir()
    later = psutil.boot_time() + timedelta(days=10).total_seconds()
    monkeypatch.setattr(psutil, "boot_time", lambda: later)
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: later)
    assert psutil.Process().create_time() > time.time() + 3600
    assert not fs.is_stale(mine)


def test_an_upload_without_manifest_is_not_published(tree, provenance, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    remote = ArtifactStore(MEMORY)
    fs, pipe = remote._backend.fs, remote._backend.fs.pipe_file

    def die(path, content, **options):
        if path.endswith("manifest.json"):
            raise ConnectionError("killed")
        pipe(path, content, **options)

    monkeypatch.setattr(fs, "pipe_file", die)
    with pytest.raises(ConnectionError):
        remote.publish(tree, "model", provenance)
    assert remote.list() == []
    remote.gc([])
    assert fs.find(MEMORY)  # perhaps still under way
    monkeypatch.setattr("slimline.storage.artifacts.remote.ABANDONED_AFTER", timedelta(seconds=-1))
    remote.gc([])
    assert not fs.find(MEMORY)


def test_a_damaged_cache_is_downloaded_again(tree, provenance, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    remote = ArtifactStore(MEMORY)
    ref = remote.publish(tree, "model", provenance)
    (remote.path(ref) / "config.json").unlink()
    assert contents(remote.path(ref)) == contents(tree)
    remote.gc([])
