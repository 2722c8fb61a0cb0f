"""What `verify` finds, what is sent between stores, and sizes that are refused or answered soon."""

import json
import shutil

import pytest

from slimline.storage.artifacts import manifest
from slimline.storage.artifacts.lineage import ancestry
from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore, CorruptArtifactError, InvalidArtifactError

GENERATIONS = 1500


def file_of(store, ref, name):
    return store._backend.root / ref.kind / ref.digest / name


@pytest.fixture
def two(store, tree, provenance):
    first = store.publish(tree, "model", provenance)
    (tree / "config.json").write_text("[1]")
    return first, store.publish(tree, "onnx", provenance.model_copy(update={"inputs": [first]}))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def swap_provenance(store, one, other):
    shutil.copy(file_of(store, other, "provenance.json"), file_of(store, one, "provenance.json"))


def to_directory(path):
    path.unlink()
    path.mkdir()


HARM = {
    "a flipped bit of provenance": lambda store, one, other: flip(file_of(store, one, "provenance.json")),
    "another's provenance": swap_provenance,
    "no provenance": lambda store, one, other: file_of(store, one, "provenance.json").unlink(),
    "a flipped bit of the manifest": lambda store, one, other: flip(file_of(store, one, "manifest.json")),
    "no manifest": lambda store, one, other: file_of(store, one, "manifest.json").unlink(),
    "a manifest that is a directory": lambda store, one, other: to_directory(file_of(store, one, "manifest.json")),
    "a flipped bit of a file": lambda store, one, other: flip(file_of(store, one, "files/deep/er/weights ü.bin")),
}


@pytest.mark.parametrize("kind", HARM)
def test_verify_names_what_is_damaged_and_goes_on(kind, store, two):
    HARM[kind](store, *two)
    found = dict(store.verify_all())
    assert found[two[1]] is None
    assert str(two[0]) in str(found[two[0]])


def test_provenance_of_an_older_version_is_read(store, two):
    path = file_of(store, two[0], "provenance.json")
    fields = json.loads(path.read_text())
    made = store.provenance(two[0])
    path.write_text(json.dumps({name: value for name, value in fields.items() if name != "seal"}))
    assert store.provenance(two[0]) == made
    store.verify(two[0])


def test_artifacts_are_sent_once_with_what_they_were_made_of(store, two, tmp_path):
    other = ArtifactStore(tmp_path / "other")
    assert list(store.send(ancestry([two[1]], store), other)) == [(two[0], True), (two[1], True)]
    assert list(store.send(two, other)) == [(two[0], False), (two[1], False)]
    assert [problem for _, problem in other.verify_all()] == [None, None]
    assert other.provenance(two[1]) == store.provenance(two[1])


def test_what_is_damaged_is_not_sent(store, two, tmp_path):
    flip(file_of(store, two[0], "files/deep/er/weights ü.bin"))
    other = ArtifactStore(tmp_path / "other")
    with pytest.raises(CorruptArtifactError, match="weights"):
        list(store.send(two, other))
    assert other.list() == []


def test_very_many_generations_are_followed(store, tmp_path, provenance):
    refs = []
    for number in range(GENERATIONS):
        ref = ArtifactRef(kind="model", digest=f"{number:064x}")
        made = provenance.model_copy(update={"inputs": refs[-1:]})
        refs.append(ref)
        store._known = getattr(store, "_known", {}) | {ref: made}
    store.provenance = store._known.__getitem__
    assert ancestry(refs[-1:], store) == refs


def test_too_many_files_are_refused(store, tree, provenance, monkeypatch):
    monkeypatch.setattr("slimline.storage.artifacts.store.MOST_FILES", 2)
    with pytest.raises(InvalidArtifactError, match="3 files; allowed: 2"):
        store.publish(tree, "model", provenance)


def test_a_manifest_of_a_million_entries_is_refused_unread(store, two):
    entries = b'{"path": "f", "size": 1, "sha256": "0"}, ' * 10**6
    file_of(store, two[0], "manifest.json").write_bytes(b'{"files": [' + entries + b"]}")
    assert len(entries) > manifest.MOST_BYTES
    with pytest.raises(CorruptArtifactError, match=r"manifest\.json: [0-9,]+ bytes; allowed"):
        store.manifest(two[0])
