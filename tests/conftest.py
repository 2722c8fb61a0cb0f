"""Fixtures that tests of every package share."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from slimline.storage.metrics.store import MetricsStore
from slimline.tasks.runtime.machine_lock import LOCK_DIRECTORY
from tests.command import FIRST_RUN, copy_source, run_command

# A slow or busy machine is no failure: no test asserts a time.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
# A shell's background job ignores SIGINT, and so would everything that tests start, and then send it to.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def machine_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The tests of one pytest process do not wait for those of another, nor for what is measured here otherwise."""
    os.environ[LOCK_DIRECTORY] = str(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def session_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """State that the end-to-end tests share: filled once, by a real run of the smoke study."""
    return tmp_path_factory.mktemp("slimline")


@pytest.fixture(scope="session")
def smoke(session_home: Path) -> subprocess.CompletedProcess[str]:
    """The first run of the smoke study."""
    return run_command(*FIRST_RUN.split()[1:], home=session_home)


@pytest.fixture
def source_copy(tmp_path: Path) -> Iterator[Path]:
    """A copy of slimline's source that a test may edit."""
    copy = copy_source(tmp_path / "source")
    yield copy
    shutil.rmtree(copy)


@pytest.fixture
def metrics(tmp_path: Path) -> MetricsStore:
    """An empty metrics store."""
    return MetricsStore(tmp_path / "metrics")
