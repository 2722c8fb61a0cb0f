"""The environment of ITREX: the real one, and one that only looks so."""

import sys
from pathlib import Path

import pytest

from slimline.tasks.itrex import environment
from tests.system import give_up


@pytest.fixture
def itrex() -> None:
    """The real environment; without it, a test is skipped."""
    if problem := environment.problem():
        give_up(f"{problem}; {environment.BUILD}")


@pytest.fixture
def imitation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment whose packages are empty directories, and whose interpreter is this one."""
    directory = tmp_path / "itrex"
    for name, version in environment.pinned_versions().items():
        (directory / "lib/python3.11/site-packages" / f"{name.replace('-', '_')}-{version}.dist-info").mkdir(
            parents=True
        )
    (directory / "bin").mkdir()
    (directory / "bin" / "python").symlink_to(sys.executable)
    (directory / "complete").touch()
    monkeypatch.setattr(environment, "ENVIRONMENT", directory)
    return directory
