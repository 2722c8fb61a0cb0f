"""Measuring on a machine that serves a work pool: its worker takes the order, and its rows come through the store."""

from __future__ import annotations

import logging
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

from slimline.flows.config.host import HostError, Pool
from slimline.flows.measure import measure
from slimline.flows.run import Order
from slimline.flows.server.registration import HEARTBEAT_S, create_pools
from slimline.flows.ui.progress import say
from slimline.storage.queries.resume import stored_rows
from slimline.storage.stores import metrics_store, store_url

ATTEMPTS = 3
MARGIN_S = 600.0  # a turn that has begun within the limit is measured to its end
_POLL_S = 2.0
# A supervisor of the worker may put a killed run on the schedule again; then no other attempt is needed.
_RECOVERS_WITHIN_S = 20.0
_SILENT_S = 3.0 * HEARTBEAT_S
_CANCELS_WITHIN_S = 30.0

_Phase = Literal["scheduled", "running", "ended"]

_log = logging.getLogger(__name__)


def measure_on_pool(host: Pool, order: Order, stop: Event) -> None:
    """Have the pool's machine measure an order, and wait for it; one that is under way already is only waited for.

    A flow run that crashes or fails is started again, and goes on with what it had not stored yet.

    Args:
        host: The pool's machine.
        order: What to measure.
        stop: Cancels the flow run once it is set.

    Raises:
        HostError: no worker took it, it took too long, or it failed every time.
    """
    if get_current_settings().api.url is None:
        raise HostError("a worker needs a server that it can reach; start one with: slimline serve")
    problem: str | None = None
    for attempt in range(1, ATTEMPTS + 1):
        problem = _Watch(host, _start_flow_run(host, order, attempt), stop).wait()
        if problem is None:
            return _require_rows(order)
        say(f"{host.name}, attempt {attempt} of {ATTEMPTS}: {problem}")
    raise HostError(f"failed {ATTEMPTS} times, at last: {problem}")


def _start_flow_run(host: Pool, order: Order, attempt: int) -> UUID:
    """The flow run of this attempt; the key makes it the same one if this process is killed and started again."""
    flow_run = run_deployment(
        _require_deployment(host),
        parameters={"order": order.model_dump(mode="json")},
        timeout=0,
        idempotency_key=f"{order.run}-{host.name}-{attempt}",
    )
    assert isinstance(flow_run, FlowRun)  # a coroutine only where it is called from one
    return flow_run.id


def _require_deployment(host: Pool) -> str:
    """The deployment that measures on the pool; made where there is none, so that a new host is a file and a worker."""
    name = f"{measure.name}/{host.pool}"
    with get_client(sync_client=True) as client:
        create_pools(client, [host.pool])  # also where its worker has made it, with Prefect's own template
        with suppress(ObjectNotFound):
            client.read_deployment_by_name(name)
            return name
        _log.info("creating the deployment %s", name)
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
    if not stored_rows(metrics_store(), order.run, order.table_host).measured:
        raise HostError(f"it has measured, but not into {store_url()}; give its worker the same SLIMLINE_STORE")


class _Watch:
    """Waits for one flow run of a pool, almost without using the processor: this machine may be measuring."""

    def __init__(self, host: Pool, flow_run: UUID, stop: Event) -> None:
        self._host, self._flow_run, self._stop = host, flow_run, stop
        self._phase: _Phase = "scheduled"
        self._since = time.monotonic()
        self._heartbeat: tuple[object, float] = (None, self._since)  # the last one, and when it was first seen
        self._next_look = self._since

    def wait(self) -> str | None:
        """Wait for the end.

        Returns:
            None once it has completed; else why another attempt is worth it.

        Raises:
            HostError: no other attempt is.
        """
        deadline = time.monotonic() + self._host.limit_minutes * 60 + MARGIN_S
        with get_client(sync_client=True) as client:
            while not self._stop.is_set():
                has_ended, problem = self._check_server(client)
                if has_ended:
                    return problem
                if time.monotonic() > deadline:
                    self._cancel(client)
                    raise HostError(f"not done within {self._host.limit_minutes:g} minutes")
                self._stop.wait(_POLL_S)
            self._cancel(client)
        raise HostError("the run was stopped")

    def _check_server(self, client: SyncPrefectClient) -> tuple[bool, str | None]:
        try:
            return self._check(client, client.read_flow_run(self._flow_run))
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            _log.info("the server does not answer; it is asked again: %s", error)
            self._since = now = time.monotonic()
            self._heartbeat = (None, now)  # it cannot have heard any meanwhile, nor of a worker
            return False, None

    def _check(self, client: SyncPrefectClient, run: FlowRun) -> tuple[bool, str | None]:
        """Whether it has ended, and the problem if not well."""
        state = run.state
        assert state is not None  # every run that was read from the server has one
        if state.is_completed():
            return True, None
        if state.is_final():
            has_ended = self._seconds_in("ended") > (_RECOVERS_WITHIN_S if state.is_crashed() else 0)
            return has_ended, f"{state.name}: {state.message}"
        if state.is_running():
            self._seconds_in("running")
            return self._crash_if_silent(client), "its process has ended without a message"
        self._require_worker(client, self._seconds_in("scheduled"))
        return False, None

    def _require_worker(self, client: SyncPrefectClient, waited_s: float) -> None:
        minutes, pool = self._host.start_within_minutes, self._host.pool
        if waited_s > minutes * 60 and not _has_worker(client, self._host):
            self._cancel(client)
            start = f"prefect worker start --pool {pool}"
            raise HostError(f"no worker of pool {pool} took it within {minutes:g} minutes; start one with: {start}")

    def _seconds_in(self, phase: _Phase) -> float:
        """Seconds it has been in this phase."""
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._since, self._heartbeat = phase, now, (None, now)
        return now - self._since

    def _crash_if_silent(self, client: SyncPrefectClient) -> bool:
        """Whether its process has sent no heartbeat for long, while the server was there to hear it."""
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + HEARTBEAT_S / 2
        latest, (known, since) = _last_heartbeat(client, self._flow_run), self._heartbeat
        if latest != known:
            self._heartbeat = (latest, now)
        elif latest is not None and now - since > _SILENT_S:
            crashed: State[None] = Crashed(message="its process has ended without a message")
            client.set_flow_run_state(self._flow_run, crashed, force=True)
            return True
        return False

    def _cancel(self, client: SyncPrefectClient) -> None:
        """Cancel it, and wait a little: what still runs may still write rows."""
        client.set_flow_run_state(self._flow_run, Cancelling())
        deadline = time.monotonic() + _CANCELS_WITHIN_S
        while time.monotonic() < deadline:
            state = client.read_flow_run(self._flow_run).state
            if state is None or state.is_final():
                return
            time.sleep(_POLL_S / 4)


def _has_worker(client: SyncPrefectClient, host: Pool) -> bool:
    """Whether the pool has a worker; a killed one counts until its heartbeats are missed, a minute or two."""
    try:
        return any(worker.status == WorkerStatus.ONLINE for worker in client.read_workers_for_work_pool(host.pool))
    except ObjectNotFound:
        return False


def _last_heartbeat(client: SyncPrefectClient, flow_run: UUID) -> object:
    """When the flow run's process last said that it is alive; None if it never did."""
    wanted = EventFilter(
        event=EventNameFilter(name=["prefect.flow-run.heartbeat"]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{flow_run}"]),
    )
    events = client.read_events(wanted, limit=1).events
    return events[0].occurred if events else None
