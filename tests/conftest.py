"""Fixtures that tests of every package share."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from slimline.storage.metrics.store import MetricsStore
from slimline.tasks.runtime.machine_lock import LOCK_DIRECTORY
from tests.command import FIRST_RUN, ROOT, FirstRun, copy_source, environment, program_command, run_command
from tests.s3 import BUCKET, KEYS, s3_server

# A slow or busy machine is no failure: no test asserts a time.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
# A shell's background job ignores SIGINT, and so would everything that tests start, and then send it to.
signal.signal(signal.SIGINT, signal.default_int_handler)
# pytest-xdist hands files out in order. Those that take longest come first. The first of all makes the home that many
# others copy, and the first run; three that need neither come next, and last what is short and needs that run, so that
# no worker waits for another.
LONGEST = (
    *("test_run", "test_bundled_model", "test_other_pythons", "test_mutants"),
    *("test_many_hosts", "test_serve", "test_sisters", "test_compression", "test_recipes", "test_ui", "test_postgres"),
    *("test_readme", "test_dashboard", "test_nightly", "test_wheel", "test_kills"),
    *("test_build", "test_distill", "test_bases", "test_s3_faults", "test_disks"),
)
PREPARE_HOME = ROOT / "tests" / "e2e" / "programs" / "prepare_home.py"
NEED_FIRST_RUN = ("test_report", "test_sql")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two for each core: what drives servers and other processes waits for them half of the time."""
    return 2 * (os.cpu_count() or 1)


def pytest_configure() -> None:
    """Keep each pytest-xdist worker, and all that it starts, on one core: threads do not wait for those of others."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files for pytest-xdist; within a file, the order stays."""
    first = {name: place - len(LONGEST) for place, name in enumerate(LONGEST)}
    last = {name: place + 1 for place, name in enumerate(NEED_FIRST_RUN)}
    items.sort(key=lambda item: first.get(item.path.stem, last.get(item.path.stem, 0)))


@pytest.fixture(scope="session", autouse=True)
def machine_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The tests of one pytest process do not wait for those of another, nor for what is measured here otherwise."""
    os.environ[LOCK_DIRECTORY] = str(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all workers of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def prepared_home(shared: Path) -> Path:
    """A state directory to be copied, in which nothing has run yet. What takes a minute each is there.

    It is Prefect's database, slice and base of the smoke study, the base's ONNX graph, and this host's peaks.
    """
    home = shared / "prepared"
    with FileLock(shared / "prepared.lock"):
        if not home.exists():
            command = program_command(PREPARE_HOME, "smoke")
            subprocess.run(command, env=environment(shared / "preparing"), check=True)
            (shared / "preparing").rename(home)
    return home


@pytest.fixture(scope="session")
def first_run(shared: Path, prepared_home: Path) -> FirstRun:
    """A real run of the smoke study, once for all workers of pytest-xdist: it takes minutes."""
    home, printed = shared / "first-run", shared / "first-run.json"
    with FileLock(shared / "first-run.lock"):
        if not printed.exists():
            shutil.copytree(prepared_home, home)
            finished = run_command(*FIRST_RUN.split()[1:], home=home, check=False)
            printed.write_text(json.dumps([finished.returncode, finished.stdout, finished.stderr]), "utf8")
    status, out, err = json.loads(printed.read_text("utf8"))
    assert status == 0, err
    return FirstRun(home, out, err)


@pytest.fixture(scope="module")
def smoke_home(first_run: FirstRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state that a run of the smoke study left, in a copy which the tests of one file may change."""
    home = shutil.copytree(first_run.home, tmp_path_factory.mktemp("smoke") / "home")
    for record in (home / "results").iterdir():  # Prefect's, which name their own path
        record.write_text(record.read_text("utf8").replace(str(first_run.home), str(home)), "utf8")
    yield home
    shutil.rmtree(home)


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


@pytest.fixture(scope="session")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real S3 server."""
    with s3_server(tmp_path_factory.mktemp("weed")) as url:
        yield url


@pytest.fixture
def s3(s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An empty place on that server, for this process and those it starts; downloads are cached below `tmp_path`."""
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": s3_url}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return f"s3://{BUCKET}/{tmp_path.name}"
