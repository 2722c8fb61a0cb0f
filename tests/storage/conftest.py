import pytest

from slimline.storage.artifacts.store import ArtifactStore, Provenance
from tests.storage.factories import NOON


@pytest.fixture
def provenance():
    return Provenance(
        step={"step": "pretrain", "minutes": 1.5},
        inputs=[],
        versions={"torch": "2.13.0"},
        host="here",
        created=NOON,
        seconds=3.5,
        notes={"curve": [1.0, 0.5]},
    )


@pytest.fixture
def tree(tmp_path):
    directory = tmp_path / "tree"
    (directory / "deep" / "er").mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "empty").write_bytes(b"")
    (directory / "deep" / "er" / "weights ü.bin").write_bytes(bytes(range(256)) * 10)
    return directory


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return ArtifactStore(tmp_path / "artifacts")
