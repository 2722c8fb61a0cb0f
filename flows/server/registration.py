"""What a Prefect server has to know of slimline: the work pools of its hosts, and its deployments."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import DeploymentSchedule

from slimline.flows.config.host import Pool, host_names, load_host

_LOCAL = "local"
HEARTBEAT_S = 30
"""How often a run says that it goes on: the shortest that Prefect takes."""
# A run chooses nothing of its process: no command, no environment, no directory. Its output is in its logs: if it went
# through a pipe to the worker, a run whose worker is killed would fail at its next line of output.
TEMPLATE = {
    "job_configuration": {"stream_output": False, "env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S)}},
    "variables": {"type": "object", "properties": {}, "additionalProperties": False},
}


def create_pools(client: SyncPrefectClient, wanted: Collection[str]) -> list[str]:
    """Create the work pools that do not exist yet: this machine's, those of the hosts that ship, and `wanted` ones.

    Pools that exist get the same template: what an older version made would run a command that a run names.

    Returns:
        The names of all of them.
    """
    descriptions = {_LOCAL: "The machine `slimline serve` runs on."}
    for host in map(load_host, host_names()):
        if isinstance(host, Pool):
            descriptions[host.pool] = host.description
    names = list(dict.fromkeys([*descriptions, *wanted]))
    known = {pool.name: pool for pool in client.read_work_pools()}
    for name in names:
        if name not in known:
            description = descriptions.get(name)
            pool = WorkPoolCreate(name=name, type="process", description=description, base_job_template=TEMPLATE)
            client.create_work_pool(pool)
        elif known[name].base_job_template != TEMPLATE:  # made by an older version, or by a worker that came first
            client.update_work_pool(name, WorkPoolUpdate(base_job_template=TEMPLATE))
    return names


def paused_schedules(client: SyncPrefectClient) -> set[tuple[UUID, str | None]]:
    """The schedules that somebody has paused: a deployment and its schedule's slug."""
    return {(deployment, schedule.slug) for deployment, schedule in _schedules(client) if not schedule.active}


def pause_schedules(client: SyncPrefectClient, schedules: set[tuple[UUID, str | None]]) -> None:
    """Pause them again: deploying replaces a deployment's schedules, and what is new is active."""
    for deployment, schedule in _schedules(client):
        if schedule.active and (deployment, schedule.slug) in schedules:
            client.update_deployment_schedule(deployment, schedule.id, active=False)


def _schedules(client: SyncPrefectClient) -> Iterator[tuple[UUID, DeploymentSchedule]]:
    for deployment in client.read_deployments():
        for schedule in deployment.schedules:
            yield deployment.id, schedule


def has_heartbeat(client: SyncPrefectClient, pool: str, worker: str, since: datetime) -> bool:
    """Whether a pool's worker has sent a heartbeat since then; its status stays ONLINE long after it was killed."""
    heard = [known.last_heartbeat_time for known in client.read_workers_for_work_pool(pool) if known.name == worker]
    return any(time is not None and time >= since for time in heard)
