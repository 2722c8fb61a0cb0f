"""What flows wait for and talk to, without waiting and without a server: a clock, an event, and Prefect's client."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Event
from types import SimpleNamespace, TracebackType
from typing import Any, Self
from uuid import UUID, uuid4

import httpx
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
from prefect.client.schemas.objects import FlowRun, State, WorkerStatus
from prefect.exceptions import ObjectNotFound


class Clock:
    """Replaces the module `time`: who sleeps moves it on, and what is due meanwhile happens."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._due: list[tuple[float, Callable[[], object]]] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        due, self._due = (
            [each for each in self._due if each[0] <= self.now],
            [each for each in self._due if each[0] > self.now],
        )
        for _, action in due:
            action()

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Have something happen that many seconds after now."""
        self._due.append((self.now + seconds, action))


class StopEvent(Event):
    """An event whose `wait` moves a clock on instead of waiting; it is set once more than a day has passed."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock, self._end = clock, clock.now + 24 * 3600

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None, "this would wait for ever"
        if not self.is_set():
            self._clock.sleep(timeout)
        if self._clock.now > self._end:
            raise AssertionError("it waits for something that never happens")
        return self.is_set()


def make_run(state: State, age: timedelta = timedelta(minutes=5), **fields: Any) -> FlowRun:
    """A flow run as the server tells it, in a state since some time; `pool` and `worker` have it."""
    worker = fields.pop("worker", "box-local")
    state = state.model_copy(update={"timestamp": datetime.now(UTC) - age})
    labels = {} if worker is None else {"prefect.worker.name": worker}
    fields = {"flow_id": uuid4(), "name": "run", "work_pool_name": "local", "labels": labels, **fields}
    return FlowRun(**fields, state=state)


class FakeClient:
    """The calls of Prefect's client that slimline makes, on data of the test's own; states that are set are kept."""

    def __init__(self) -> None:
        self.is_down = False
        self.runs: dict[UUID, FlowRun] = {}
        self._parents: dict[UUID, UUID | None] = {}
        self.changes: list[tuple[UUID, State]] = []
        self.pools: dict[str, WorkPoolCreate] = {}
        self.workers: defaultdict[str, list[Any]] = defaultdict(list)
        self.deployments: list[Any] = []
        self.created: list[tuple[str, dict[str, Any]]] = []
        self.heartbeats: list[datetime] = []
        self.api_url = "http://127.0.0.1:8000/api/"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def add(self, run: FlowRun, parent: FlowRun | None = None) -> FlowRun:
        self.runs[run.id] = run
        self._parents[run.id] = parent.id if parent else None
        return run

    def set_state(self, run: FlowRun, state: State) -> None:
        """What a worker or a user does."""
        self.runs[run.id] = self.runs[run.id].model_copy(update={"state": state})

    def state_names(self, run: FlowRun) -> list[str | None]:
        """The states that slimline has set, in order."""
        return [state.name for flow_run, state in self.changes if flow_run == run.id]

    # ------------------------------------------------------------------------------------------- Prefect's own methods

    def read_flow_run(self, flow_run: UUID) -> FlowRun:
        self._answer()
        return self.runs[flow_run]

    def set_flow_run_state(self, flow_run: UUID, state: State, force: bool = False) -> None:
        self._answer()
        self.changes.append((flow_run, state))
        self.set_state(self.runs[flow_run], state)

    def read_flow_runs(
        self, flow_run_filter: FlowRunFilter, work_pool_filter: WorkPoolFilter | None = None, sort: object = None
    ) -> list[FlowRun]:
        self._answer()
        assert flow_run_filter.state and flow_run_filter.state.type
        types = flow_run_filter.state.type.any_ or []
        parents = flow_run_filter.parent_flow_run_id.any_ if flow_run_filter.parent_flow_run_id else None
        pools = work_pool_filter.name.any_ if work_pool_filter and work_pool_filter.name else None
        return [
            run
            for run in self.runs.values()
            if run.state
            and run.state.type in types
            and (parents is None or self._parents[run.id] in parents)
            and (pools is None or run.work_pool_name in pools)
        ]

    def read_work_pools(self) -> list[WorkPoolCreate]:
        self._answer()
        return list(self.pools.values())

    def create_work_pool(self, pool: WorkPoolCreate) -> None:
        self._answer()
        assert pool.name not in self.pools
        self.pools[pool.name] = pool

    def update_work_pool(self, name: str, change: WorkPoolUpdate) -> None:
        self._answer()
        self.pools[name].base_job_template = change.base_job_template or {}

    def read_workers_for_work_pool(self, pool: str) -> list[Any]:
        self._answer()
        if pool not in self.pools:
            raise ObjectNotFound(Exception("404"))
        return self.workers[pool]

    def add_worker(self, pool: str, name: str, heartbeat: datetime | None, is_online: bool = True) -> None:
        self.pools.setdefault(pool, WorkPoolCreate(name=pool))
        status = WorkerStatus.ONLINE if is_online else WorkerStatus.OFFLINE
        self.workers[pool].append(SimpleNamespace(name=name, last_heartbeat_time=heartbeat, status=status))

    def read_deployments(self) -> list[Any]:
        self._answer()
        return self.deployments

    def update_deployment_schedule(self, deployment: UUID, schedule: UUID, active: bool) -> None:
        self._answer()
        schedules = [each for known in self.deployments if known.id == deployment for each in known.schedules]
        (found,) = (each for each in schedules if each.id == schedule)
        found.active = active

    def read_deployment_by_name(self, name: str) -> Any:
        self._answer()
        for known in self.deployments:
            if known.name == name:
                return known
        raise ObjectNotFound(Exception("404"))

    def create_flow(self, flow: Any) -> UUID:
        self._answer()
        return uuid4()

    def create_deployment(self, flow: UUID, name: str, **fields: Any) -> UUID:
        self._answer()
        self.created.append((name, fields))
        return uuid4()

    def read_events(self, wanted: Any, limit: int) -> Any:
        self._answer()
        events = [SimpleNamespace(occurred=time) for time in self.heartbeats[-limit:]]
        return SimpleNamespace(events=events)

    def _answer(self) -> None:
        if self.is_down:
            raise httpx.ConnectError("connection refused")
