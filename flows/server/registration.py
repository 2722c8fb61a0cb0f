"""What a Prefect server has to know of slimline: the work pools of its hosts, and its deployments."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.workers.process import ProcessWorker

from slimline.flows.config.host import Pool, host_names, load_host

_LOCAL = "local"


def create_pools(client: SyncPrefectClient, wanted: Collection[str]) -> list[str]:
    """A work pool for this machine, for each host that ships with slimline, and each wanted one; all their names."""
    described = {_LOCAL: "The machine `slimline serve` runs on."}
    for host in map(load_host, host_names()):
        if isinstance(host, Pool):
            described[host.pool] = host.description
    names = list(dict.fromkeys([*described, *wanted]))
    template = ProcessWorker.get_default_base_job_template()
    # What runs print is in their logs. Through a pipe to the worker, a run would die of printing once that is killed.
    template["variables"]["properties"]["stream_output"]["default"] = False
    known = {pool.name for pool in client.read_work_pools()}
    for name in names:
        if name not in known:
            about = described.get(name)
            pool = WorkPoolCreate(name=name, type="process", description=about, base_job_template=template)
            client.create_work_pool(pool)
    return names


def paused_schedules(client: SyncPrefectClient) -> set[tuple[UUID, str | None]]:
    """The schedules that somebody has paused: a deployment and its schedule's slug."""
    return {(deployment, schedule.slug) for deployment, schedule in _schedules(client) if not schedule.active}


def pause(client: SyncPrefectClient, schedules: set[tuple[UUID, str | None]]) -> None:
    """Pause them again: deploying replaces a deployment's schedules, and what is new is active."""
    for deployment, schedule in _schedules(client):
        if schedule.active and (deployment, schedule.slug) in schedules:
            client.update_deployment_schedule(deployment, schedule.id, active=False)


def _schedules(client: SyncPrefectClient) -> Iterator[tuple[UUID, DeploymentSchedule]]:
    for deployment in client.read_deployments():
        for schedule in deployment.schedules:
            yield deployment.id, schedule


def reports(client: SyncPrefectClient, pool: str, worker: str, since: datetime) -> bool:
    """Whether a pool's worker has been heard of since then."""
    heard = [known.last_heartbeat_time for known in client.read_workers_for_work_pool(pool) if known.name == worker]
    return any(time is not None and time >= since for time in heard)
