"""Measuring on a machine that serves a work pool: its worker takes the order, and its rows come through the store."""

from __future__ import annotations

import time
from contextlib import suppress
from threading import Event
from typing import Literal
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State, WorkerStatus
from prefect.deployments import run_deployment
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import get_current_settings
from prefect.states import Cancelling, Crashed

from slimline.flows.config.host import HostFailed, Pool
from slimline.flows.measure import measure
from slimline.flows.run import Order
from slimline.flows.server.registration import create_pools
from slimline.flows.ui.progress import say
from slimline.storage.queries.resume import stored_rows
from slimline.storage.stores import metrics_store, store_url

ATTEMPTS = 3
_POLL_S = 2.0
# A supervisor of the worker may put a killed run on the schedule again; then no other attempt is needed.
_RESCUED_WITHIN_S = 20.0
_HEARTBEAT_S = 30  # the shortest that Prefect takes
_SILENT_S = 3.0 * _HEARTBEAT_S
_CANCELLED_WITHIN_S = 30.0
MARGIN_S = 600.0  # a turn that has begun within the limit is measured to its end


def measure_on_pool(host: Pool, order: Order, stop: Event) -> None:
    """Have the pool's machine measure an order, and wait for it; one that is under way already is only waited for.

    A flow run that crashes or fails is started again, and goes on with what it had not stored yet.

    Raises:
        HostFailed: no worker took it, it took too long, or it failed every time.
    """
    if get_current_settings().api.url is None:
        raise HostFailed("a worker needs a server that it can reach; start one with: slimline serve")
    reason = ""
    for attempt in range(1, ATTEMPTS + 1):
        child = _started(host, order, attempt)
        ending = _Watch(host, child, stop).outcome()
        if ending is None:
            return _require_rows(order)
        reason = ending
        say(f"{host.name}, attempt {attempt} of {ATTEMPTS}: {reason}")
    raise HostFailed(f"failed {ATTEMPTS} times, at last: {reason}")


def _started(host: Pool, order: Order, attempt: int) -> UUID:
    """The flow run of this attempt; the key makes it the same one if this process is killed and started again."""
    flow_run = run_deployment(
        _deployed(host),
        parameters={"order": order.model_dump(mode="json")},
        timeout=0,
        idempotency_key=f"{order.run}-{host.name}-{attempt}",
        job_variables={"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(_HEARTBEAT_S)}},
    )
    assert isinstance(flow_run, FlowRun)  # a coroutine only where it is called from one
    return flow_run.id


def _deployed(host: Pool) -> str:
    """The deployment that measures on the pool; made where there is none, so that a new host is a file and a worker."""
    name = f"{measure.name}/{host.pool}"
    with get_client(sync_client=True) as client:
        with suppress(ObjectNotFound):
            client.read_deployment_by_name(name)
            return name
        create_pools(client, [host.pool])
        client.create_deployment(
            client.create_flow(measure),
            host.pool,
            work_pool_name=host.pool,
            entrypoint=f"{measure.__module__}.{measure.fn.__name__}",
            description=measure.description,
            pull_steps=[],
        )
    return name


def _require_rows(order: Order) -> None:
    if not stored_rows(metrics_store(), order.run, order.shown_host).measured:
        raise HostFailed(f"it has measured, but not into {store_url()}; give its worker the same SLIMLINE_STORE")


class _Watch:
    """Waits for one flow run of a pool, without ever busying a core."""

    def __init__(self, host: Pool, child: UUID, stop: Event) -> None:
        self._host, self._child, self._stop = host, child, stop
        self._phase: Literal["waiting", "running", "ended"] = "waiting"
        self._since = time.monotonic()
        self._heard: tuple[object, float] = (None, self._since)
        self._listen_at = self._since

    def outcome(self) -> str | None:
        """None once it has completed; else why another attempt is worth it. Raises HostFailed if none is."""
        deadline = time.monotonic() + self._host.limit_minutes * 60 + MARGIN_S
        with get_client(sync_client=True) as client:
            while not self._stop.is_set():
                try:
                    run = client.read_flow_run(self._child)
                    ended, ending = self._look(client, run)
                except (httpx.TransportError, PrefectHTTPStatusError):  # the server is being started again
                    self._heard = (None, time.monotonic())
                    ended, ending = False, None
                if ended:
                    return ending
                if time.monotonic() > deadline:
                    self._cancel(client)
                    raise HostFailed(f"not done within {self._host.limit_minutes:g} minutes")
                self._stop.wait(_POLL_S)
            self._cancel(client)
        raise HostFailed("the run was stopped")

    def _look(self, client: SyncPrefectClient, run: FlowRun) -> tuple[bool, str | None]:
        """Whether it has ended, and how if not well."""
        state = run.state
        assert state is not None  # every run that was read from the server has one
        if state.is_completed():
            return True, None
        if state.is_final():
            has_ended = self._in_phase("ended") > (_RESCUED_WITHIN_S if state.is_crashed() else 0)
            return has_ended, f"{state.name}: {state.message}"
        if state.is_running():
            self._in_phase("running")
            return self._is_silent(client), "its process has ended without a word"
        if self._in_phase("waiting") > self._host.start_within_minutes * 60 and not _has_worker(client, self._host):
            self._cancel(client)
            pool, minutes = self._host.pool, f"{self._host.start_within_minutes:g}"
            start = f"prefect worker start --pool {pool}"
            raise HostFailed(f"no worker of pool {pool} took it within {minutes} minutes; start one with: {start}")
        return False, None

    def _in_phase(self, phase: Literal["waiting", "running", "ended"]) -> float:
        """Seconds it has been in this phase."""
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._since, self._heard = phase, now, (None, now)
        return now - self._since

    def _is_silent(self, client: SyncPrefectClient) -> bool:
        """Whether its process has sent no heartbeat for long, while the server was there to hear it."""
        now = time.monotonic()
        if now < self._listen_at:
            return False
        self._listen_at = now + _HEARTBEAT_S / 2
        last, (known, since) = _last_heartbeat(client, self._child), self._heard
        if last != known:
            self._heard = (last, now)
        elif last is not None and now - since > _SILENT_S:
            gone: State[None] = Crashed(message="its process has ended without a word")
            client.set_flow_run_state(self._child, gone, force=True)
            return True
        return False

    def _cancel(self, client: SyncPrefectClient) -> None:
        """Cancel it, and wait a little: what still runs may still write rows."""
        client.set_flow_run_state(self._child, Cancelling())
        until = time.monotonic() + _CANCELLED_WITHIN_S
        while time.monotonic() < until:
            state = client.read_flow_run(self._child).state
            if state is None or state.is_final():
                return
            time.sleep(_POLL_S / 4)


def _has_worker(client: SyncPrefectClient, host: Pool) -> bool:
    try:
        return any(worker.status == WorkerStatus.ONLINE for worker in client.read_workers_for_work_pool(host.pool))
    except ObjectNotFound:
        return False


def _last_heartbeat(client: SyncPrefectClient, child: UUID) -> object:
    """When its process last said that it lives; None if it never did."""
    wanted = EventFilter(
        event=EventNameFilter(name=["prefect.flow-run.heartbeat"]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{child}"]),
    )
    events = client.read_events(wanted, limit=1).events
    return events[0].occurred if events else None
