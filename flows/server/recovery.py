"""Flow runs whose process is gone: the worker that would have noticed was killed, too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled, Crashed, Scheduled

from slimline.flows.server.discovery import marked

_ATTEMPTS = 5
# A worker needs a few seconds from taking a run to starting its process; on a busy machine, more.
_STARTING = timedelta(seconds=30)
# A worker gives a run that is cancelled half a minute to end by itself.
_CANCELLING = timedelta(minutes=1)
_JUST_NOW = timedelta(minutes=2)
_UNFINISHED = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)


class Rescue:
    """Puts the flow runs of killed processes on the schedule again; flows go on where they were."""

    def __init__(self, client: SyncPrefectClient, home: Path, workers: Mapping[str, str]) -> None:
        """`workers` are the names of this machine's, by pool: only their runs have their process here."""
        self._client, self._home, self._workers = client, home, workers
        self._missing: set[UUID] = set()

    def look(self) -> list[str]:
        """Rescue what was missing at the last look already; a sentence each. Errors are the client's."""
        missing = {run.id: run for run in self._without_process()}
        gone = self._missing & missing.keys()
        self._missing = missing.keys() - gone
        return [self._rescue(missing[each]) for each in gone] + [self._rescue(run) for run in self._killed()]

    def interrupt(self) -> list[str]:
        """Rescue every run of these workers at once, now that they and all their processes have been ended."""
        return [self._rescue(run) for run in self._runs(_UNFINISHED)]

    def _without_process(self) -> Iterator[FlowRun]:
        runs = self._runs(_UNFINISHED)
        processes: defaultdict[str, list[psutil.Process]] = defaultdict(list)
        for process, seen in marked(self._home) if runs else ():
            processes[seen.get("PREFECT__FLOW_RUN_ID", "")].append(process)
        for run in runs:
            state, own = _state(run), processes[str(run.id)]
            if not own and not (state.is_pending() and _age(run) < _STARTING):
                yield run
            elif state.is_cancelling() and _age(run) > _CANCELLING:  # the worker that should end it is gone
                for process in own:
                    with suppress(psutil.Error):
                        process.kill()

    def _killed(self) -> Iterator[FlowRun]:
        """Runs whose process was killed under a worker that lives: it has called them crashed."""
        for run in self._runs([StateType.CRASHED]):
            was_killed = "status code: -9" in (_state(run).message or "")
            if was_killed and _age(run) < _JUST_NOW and run.run_count < _ATTEMPTS:
                yield run

    def _runs(self, states: Collection[StateType]) -> list[FlowRun]:
        """The latest runs of these workers in these states."""
        runs = self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states)))),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=list(self._workers))),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        )
        return [run for run in runs if self._is_ours(run)]

    def _is_ours(self, run: FlowRun) -> bool:
        worker = run.labels.get("prefect.worker.name")
        if worker is None:  # it was killed before it could sign, or is just about to
            return _age(run) > _STARTING
        return worker in self._workers.values()

    def _rescue(self, run: FlowRun) -> str:
        for child in self._inside(run):
            self._client.set_flow_run_state(child.id, Crashed(message="the process it ran in was killed"), force=True)
        state, sentence = _next(run)
        self._client.set_flow_run_state(run.id, state, force=True)
        return f"{run.name!r} {sentence}"

    def _inside(self, run: FlowRun) -> list[FlowRun]:
        """Unfinished flows that ran in the process of this one; deployed ones have a process of their own."""
        children = self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(_UNFINISHED))),
            )
        )
        own = [child for child in children if child.deployment_id is None]
        return [*own, *(deeper for child in own for deeper in self._inside(child))]


def _next(run: FlowRun) -> tuple[State, str]:
    if _state(run).is_cancelling():
        return Cancelled(message="its process is gone"), "is cancelled: its process is gone"
    if run.run_count >= _ATTEMPTS:
        text = f"its process was killed {run.run_count} times"
        return Crashed(message=text), f"crashed: {text}"
    return Scheduled(message="its process was killed; it goes on where it was"), "goes on: its process was gone"


def _state(run: FlowRun) -> State:
    assert run.state is not None  # every run that was read from the server has one
    return run.state


def _age(run: FlowRun) -> timedelta:
    return datetime.now(UTC) - _state(run).timestamp
