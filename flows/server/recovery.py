"""Recovery of flow runs whose process was killed, together with the worker that would have noticed, or under it."""

from __future__ import annotations

import logging
import re
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

from slimline.flows.server.discovery import processes_with_mark

_ATTEMPTS = 5
# A worker needs a few seconds from taking a run to starting its process; on a busy machine, more.
_STARTS_WITHIN = timedelta(seconds=30)
# A worker gives a run that is cancelled half a minute to end by itself.
_CANCELS_WITHIN = timedelta(minutes=1)
_RECENT = timedelta(minutes=2)
_KILLED = re.compile(r"status code:? -9\b")
_UNFINISHED = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)

_log = logging.getLogger(__name__)


class Recovery:
    """Puts the flow runs of killed processes on the schedule again; flows go on where they were."""

    def __init__(self, client: SyncPrefectClient, home: Path, workers: Mapping[str, str]) -> None:
        """Watch the runs of some workers.

        Args:
            client: Of the server that has the runs.
            home: The state directory; its processes are searched for those of the runs.
            workers: Names of this machine's workers, by pool: only their runs have their process here.
        """
        self._client, self._home, self._workers = client, home, workers
        self._missing: set[UUID] = set()

    def recover_lost_runs(self) -> list[str]:
        """Recover the runs that had no process at the last call already, and those that were killed.

        Returns:
            A sentence for each. Errors are the client's.
        """
        missing = {run.id: run for run in self._runs_without_process()}
        lost = self._missing & missing.keys()
        self._missing = missing.keys() - lost
        return [self._recover(missing[each]) for each in lost] + [self._recover(run) for run in self._killed_runs()]

    def recover_all_runs(self) -> list[str]:
        """Recover every run of these workers, now that they and all their processes have been ended."""
        return [self._recover(run) for run in self._runs(_UNFINISHED)]

    def _runs_without_process(self) -> Iterator[FlowRun]:
        runs = self._runs(_UNFINISHED)
        processes: defaultdict[str, list[psutil.Process]] = defaultdict(list)
        for process, environment in processes_with_mark(self._home) if runs else ():
            processes[environment.get("PREFECT__FLOW_RUN_ID", "")].append(process)
        for run in runs:
            state, own = _state(run), processes[str(run.id)]
            if not own and not (state.is_pending() and _age(run) < _STARTS_WITHIN):
                yield run
            elif state.is_cancelling() and _age(run) > _CANCELS_WITHIN:  # the worker that should end it is gone
                for process in own:
                    with suppress(psutil.Error):
                        process.kill()

    def _killed_runs(self) -> Iterator[FlowRun]:
        """Runs whose process was killed while their worker went on: it has called them crashed.

        It does so twice, seconds apart and in other words: the second time may undo that a run is on the schedule.
        """
        for run in self._runs([StateType.CRASHED]):
            was_killed = _KILLED.search(_state(run).message or "")
            if was_killed and _age(run) < _RECENT and run.run_count < _ATTEMPTS:
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
        if worker is None:  # its worker was killed before it could write its name, or is about to
            return _age(run) > _STARTS_WITHIN
        return worker in self._workers.values()

    def _recover(self, run: FlowRun) -> str:
        for child in self._children(run):
            self._client.set_flow_run_state(child.id, Crashed(message="the process it ran in was killed"), force=True)
        state, sentence = _choose_next_state(run)
        _log.info("flow run %s, started %d times, %s", run.id, run.run_count, sentence)
        self._client.set_flow_run_state(run.id, state, force=True)
        return f"{run.name!r} {sentence}"

    def _children(self, run: FlowRun) -> list[FlowRun]:
        """Unfinished flows that ran in the process of this one; deployed ones have a process of their own."""
        children = self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(_UNFINISHED))),
            )
        )
        own = [child for child in children if child.deployment_id is None]
        return [*own, *(deeper for child in own for deeper in self._children(child))]


def _choose_next_state(run: FlowRun) -> tuple[State, str]:
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
