"""Registering pools and deployments: once, however often, and what somebody has paused stays so."""

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from unittest.mock import Mock
from uuid import uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker

from slimline.flows.server import registration
from tests.flows.fakes import FakeClient

NOW = datetime.now(UTC)


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


def sync(client: FakeClient) -> SyncPrefectClient:
    return client  # type: ignore[return-value] # a fake


def test_pools_are_created_once_with_a_description_and_without_a_pipe(client: FakeClient) -> None:
    names = registration.create_pools(sync(client), ["laptop", "desk"])
    assert names == ["local", "laptop", "desk"] == list(client.pools)
    pools = dict(client.pools)
    assert registration.create_pools(sync(client), ["desk", "attic"]) == ["local", "laptop", "desk", "attic"]
    assert list(client.pools) == ["local", "laptop", "desk", "attic"]
    for name, pool in pools.items():
        assert client.pools[name] is pool and pool.type == "process"
        assert bool(pool.description) == (name in ("local", "laptop"))
        assert pool.base_job_template == registration.TEMPLATE


def test_a_pool_that_would_run_commands_of_others_is_changed(client: FakeClient) -> None:
    client.create_work_pool(
        WorkPoolCreate(name="laptop", base_job_template=ProcessWorker.get_default_base_job_template())
    )
    registration.create_pools(sync(client), [])
    assert client.pools["laptop"].base_job_template == registration.TEMPLATE


def test_a_run_chooses_nothing_of_its_process() -> None:
    # That a run brings no environment either is the server's part: tests/e2e/test_serve.py.
    values = {"command": "id", "working_dir": "/tmp", "name": "x", "stream_output": True}
    made = asyncio.run(ProcessJobConfiguration.from_template_and_values(registration.TEMPLATE, values, client=Mock()))
    assert (made.command, made.working_dir, made.stream_output) == (None, None, False)
    assert made.env == registration.TEMPLATE["job_configuration"]["env"]


def deployment(*schedules: tuple[str, bool]) -> SimpleNamespace:
    made = [SimpleNamespace(id=uuid4(), slug=slug, active=active) for slug, active in schedules]
    return SimpleNamespace(id=uuid4(), name="nightly", schedules=made)


def test_schedules_that_were_paused_are_paused_again_after_deploying(client: FakeClient) -> None:
    nightly, other = deployment(("daily", False), ("weekly", True)), deployment(("daily", True))
    client.deployments += [nightly, other]
    paused = registration.paused_schedules(sync(client))
    assert paused == {(nightly.id, "daily")}
    nightly.schedules = deployment(("daily", True), ("weekly", True)).schedules  # as deploying does
    registration.pause_schedules(sync(client), paused)
    assert [schedule.active for schedule in (*nightly.schedules, *other.schedules)] == [False, True, True]
    assert registration.paused_schedules(sync(client)) == paused


@pytest.mark.parametrize(
    ("name", "heartbeat", "expected"),
    [
        ("box-local", NOW + timedelta(seconds=1), True),
        ("box-local", NOW - timedelta(seconds=1), False),  # of a worker that was killed, and is still ONLINE
        ("box-local", None, False),
        ("desk-local", NOW + timedelta(seconds=1), False),
    ],
)
def test_a_worker_is_there_once_it_has_sent_a_heartbeat(
    name: str, heartbeat: datetime | None, expected: bool, client: FakeClient
) -> None:
    client.add_worker("local", name, heartbeat)
    assert registration.has_heartbeat(sync(client), "local", "box-local", NOW) == expected
