"""One `slimline serve` for all tests of a file that need one: it takes a while to start."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import Server, run_server


@pytest.fixture(scope="module")
def server(prepared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with its pools, its deployments and a worker."""
    with run_server(shutil.copytree(prepared_home, tmp_path_factory.mktemp("server") / "home")) as running:
        yield running
