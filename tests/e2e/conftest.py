"""One `slimline serve` for all tests of one process that need one: it takes a while to start."""

from collections.abc import Iterator

import pytest

from tests.e2e.serving import Server, serving


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with its pools, its deployments and a worker."""
    with serving(tmp_path_factory.mktemp("served") / "home") as server:
        yield server
