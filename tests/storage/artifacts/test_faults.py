"""Every way a published artifact can be damaged, and what verify says of it."""

import hashlib
import json

import pytest

from slimline.storage.artifacts.store import ArtifactStore, CorruptArtifactError, MissingArtifactError, Provenance
from tests.storage.factories import NOON


@pytest.fixture
def published(store, tree, provenance):
    return store.publish(tree, "model", provenance)


def _missing(home):
    (home / "files" / "config.json").unlink()


def _truncated(home):
    _rewrite(home / "files" / "deep" / "er" / "weights ü.bin", bytes(100))


def _grown(home):
    _rewrite(home / "files" / "empty", b"!")


def _flipped(home):
    _rewrite(home / "files" / "config.json", b"[]")


def _extra(home):
    (home / "files" / "extra.py").write_text("import os")


def _extra_beside(home):
    (home / "surprise").write_text("")


def _linked(home):
    (home / "files" / "config.json").unlink()
    (home / "files" / "config.json").symlink_to("/etc/passwd")


def _linked_files(home):
    (home / "files").rename(home.parent / "elsewhere")
    (home / "files").symlink_to(home.parent / "elsewhere")


def _hollow(home):
    (home / "files" / "hollow").mkdir()


def _file_for_directory(home):
    (home / "files" / "config.json").unlink()
    (home / "files" / "config.json").mkdir()
    (home / "files" / "config.json" / "x").write_text("")


def _tampered(home):
    manifest = json.loads((home / "manifest.json").read_text())
    manifest["files"][0]["size"] = 3
    _rewrite(home / "manifest.json", json.dumps(manifest).encode())


def _escaping(home):
    manifest = json.loads((home / "manifest.json").read_text())
    manifest["files"][0]["path"] = "../../../etc/passwd"
    _rewrite(home / "manifest.json", json.dumps(manifest).encode())


def _blank_added(home):
    _rewrite(home / "manifest.json", (home / "manifest.json").read_bytes() + b"\n")


def _not_json(home):
    _rewrite(home / "manifest.json", b"\x00")


def _no_manifest(home):
    (home / "manifest.json").unlink()


def _no_provenance(home):
    (home / "provenance.json").unlink()


def _bad_provenance(home):
    _rewrite(home / "provenance.json", b'{"step": {}}')


def _rewrite(path, content):
    path.chmod(0o644)
    path.write_bytes(content)


FAULTS = [
    (_missing, r"config\.json.*no such file"),
    (_truncated, r"deep/er/weights ü\.bin.*2560.*100"),
    (_grown, r"empty.*0.*1"),
    (_flipped, r"config\.json.*44136fa3.*4f53cda1"),
    (_extra, r"extra\.py"),
    (_extra_beside, r"surprise"),
    (_linked, r"'files/config\.json'.*symlink"),
    (_linked_files, r"'files'.*symlink"),
    (_hollow, r"'files/hollow'.*empty"),
    (_file_for_directory, r"config\.json.*no such file"),
    (_tampered, r"manifest\.json.*SHA-256.*\w{64}.*\w{64}"),
    (_escaping, r"manifest\.json.*SHA-256"),
    (_blank_added, r"manifest\.json.*SHA-256"),
    (_not_json, r"manifest\.json.*SHA-256"),
    (_no_manifest, r"manifest\.json.*none"),
    (_no_provenance, r"provenance\.json.*none"),
    (_bad_provenance, r"provenance\.json.*inputs"),
]


@pytest.mark.parametrize(("damage", "message"), FAULTS, ids=[damage.__name__[1:] for damage, _ in FAULTS])
def test_verify_names_file_expected_and_found(store, published, damage, message):
    damage(store.path(published).parent)
    with pytest.raises(CorruptArtifactError, match=message) as caught:
        store.verify(published)
    assert str(published) in str(caught.value)


@pytest.mark.parametrize("damage", [_missing, _truncated, _extra, _linked, _tampered])
def test_path_refuses_what_a_look_at_names_and_sizes_shows(store, published, damage):
    damage(store.path(published).parent)
    with pytest.raises(CorruptArtifactError):
        store.path(published)


def test_a_manifest_with_its_own_digest_still_cannot_escape(store, published):
    home = store.path(published).parent
    entry = {"path": "../../../../etc/passwd", "size": 1, "sha256": "0" * 64}
    content = json.dumps({"files": [entry], "kind": "model"}, sort_keys=True, separators=(",", ":")).encode()
    _rewrite(home / "manifest.json", content)
    forged = published.model_copy(update={"digest": hashlib.sha256(content).hexdigest()})
    home.rename(home.parent / forged.digest)
    with pytest.raises(CorruptArtifactError, match=r"manifest\.json.*files\.0\.path"):
        store.path(forged)


def test_an_artifact_under_another_kind_is_corrupt(store, published):
    home = store.path(published).parent
    (home.parent.parent / "onnx").mkdir()
    home.rename(home.parent.parent / "onnx" / home.name)
    with pytest.raises(CorruptArtifactError, match=r"kind.*'onnx'.*'model'"):
        store.verify(published.model_copy(update={"kind": "onnx"}))
    with pytest.raises(MissingArtifactError):
        store.verify(published)


REMOTE = [
    ("rm", "files/config.json", None, r"config\.json.*no such file"),
    ("put", "files/config.json", b"[]", r"config\.json.*SHA-256"),
    ("put", "files/config.json", b"{", r"config\.json.*2.*1"),
    ("put", "manifest.json", b"{}", r"manifest\.json.*SHA-256"),
    ("put", "provenance.json", b"{}", r"provenance\.json: step: Field required"),
]


@pytest.mark.parametrize(("action", "name", "content", "message"), REMOTE)
def test_remote_damage_is_found_and_never_reaches_the_cache(
    tree, tmp_path, monkeypatch, action, name, content, message
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    remote = ArtifactStore("memory://faults")
    made = Provenance(step={}, inputs=[], versions={}, host="h", created=NOON, seconds=0)
    ref = remote.publish(tree, "model", made)
    path = f"/faults/model/{ref.digest}/{name}"
    fs = remote._backend.fs
    fs.rm_file(path) if action == "rm" else fs.pipe_file(path, content)
    with pytest.raises(CorruptArtifactError, match=message):
        remote.verify(ref)
    with pytest.raises(CorruptArtifactError, match=message):
        remote.path(ref)
    fs.rm("/faults", recursive=True)
