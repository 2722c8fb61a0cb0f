"""Which flow runs go on after a kill, which do not, and what becomes of the flows inside them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelling, Completed, Crashed, Pending, Running

from slimline.flows.server import recovery as module
from slimline.flows.server.recovery import Recovery
from tests.flows.fakes import FakeClient, make_run

HOME = Path("/home/of/serve")
# What Prefect's worker says of a process that was killed: its runner first, then itself.
KILLED: list[State[Any]] = [
    Crashed(message="Process exited with status code: -9. Process exited due to a SIGKILL signal."),
    Crashed(
        message="Flow run infrastructure exited with non-zero status code -9. Process exited due to a SIGKILL signal."
    ),
]


class Process:
    """A process of a run; whether it was killed."""

    def __init__(self, is_gone: bool = False) -> None:
        self.is_killed, self._is_gone = False, is_gone

    def kill(self) -> None:
        if self._is_gone:
            raise psutil.NoSuchProcess(1)
        self.is_killed = True


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Process]:
    """The processes of the state directory, by flow run."""
    found: dict[str, Process] = {}

    def processes_with_mark(home: Path) -> Iterator[tuple[Process, dict[str, str]]]:
        assert home == HOME
        yield Process(), {}  # the server
        for flow_run, process in found.items():
            yield process, {"PREFECT__FLOW_RUN_ID": flow_run}

    monkeypatch.setattr(module, "processes_with_mark", processes_with_mark)
    return found


@pytest.fixture
def recovery(client: FakeClient, processes: dict[str, Process]) -> Recovery:
    return Recovery(client, HOME, {"local": "box-local", "laptop": "box-laptop"})  # type: ignore[arg-type] # a fake


@pytest.mark.parametrize("state", [Running(), Pending()])
def test_a_run_without_process_goes_on_once_two_looks_agree(
    state: State[Any], client: FakeClient, recovery: Recovery
) -> None:
    run = client.add(make_run(state, run_count=1))
    assert recovery.recover_lost_runs() == []
    assert recovery.recover_lost_runs() == ["'run' goes on: its process was gone"]
    assert client.state_names(run) == ["Scheduled"]
    assert recovery.recover_lost_runs() == []


def test_a_run_whose_process_is_back_at_the_second_look_is_left_alone(
    client: FakeClient, processes: dict[str, Process], recovery: Recovery
) -> None:
    run = client.add(make_run(Running()))
    recovery.recover_lost_runs()
    processes[str(run.id)] = Process()
    assert recovery.recover_lost_runs() == []
    del processes[str(run.id)]
    assert recovery.recover_lost_runs() == []  # the first look that misses it again
    assert client.changes == []


@pytest.mark.parametrize(
    ("state", "age_s", "fields"),
    [
        (Pending(), 5, {}),  # its process is about to start
        (Running(), 300, {"worker": "desk-local"}),
        (Running(), 300, {"work_pool_name": "elsewhere"}),
        (Running(), 5, {"worker": None}),  # its worker is about to write its name
        (Completed(), 300, {}),
        (Crashed(message="an error of its own"), 5, {}),
    ],
    ids=["starting", "other machine", "other pool", "no worker yet", "completed", "crashed by itself"],
)
def test_what_is_not_lost_is_left_alone(
    state: State[Any], age_s: float, fields: dict[str, Any], client: FakeClient, recovery: Recovery
) -> None:
    client.add(make_run(state, timedelta(seconds=age_s), **fields))
    assert [recovery.recover_lost_runs() for _ in range(3)] == [[], [], []]
    assert client.changes == []


def test_a_run_whose_worker_was_killed_before_it_wrote_its_name_goes_on(client: FakeClient, recovery: Recovery) -> None:
    run = client.add(make_run(Pending(), worker=None))
    recovery.recover_lost_runs()
    recovery.recover_lost_runs()
    assert client.state_names(run) == ["Scheduled"]


@pytest.mark.parametrize(("starts", "expected"), [(1, ["Scheduled"]), (4, ["Scheduled"]), (5, ["Crashed"])])
def test_a_run_goes_on_up_to_five_times(
    starts: int, expected: list[str], client: FakeClient, recovery: Recovery
) -> None:
    run = client.add(make_run(Running(), run_count=starts))
    recovery.recover_lost_runs()
    (sentence,) = recovery.recover_lost_runs()
    assert client.state_names(run) == expected
    assert (f"killed {starts} times" in sentence) == (expected == ["Crashed"])


@pytest.mark.parametrize(
    ("age", "starts", "expected"),
    [
        (timedelta(seconds=1), 1, ["Scheduled"]),
        (timedelta(seconds=1), 5, []),  # often enough
        (timedelta(minutes=5), 1, []),  # long ago: nobody knows whether it is still wanted
    ],
)
@pytest.mark.parametrize("killed", KILLED)
def test_a_run_that_was_killed_under_its_worker_goes_on(
    killed: State[Any], age: timedelta, starts: int, expected: list[str], client: FakeClient, recovery: Recovery
) -> None:
    run = client.add(make_run(killed, age, run_count=starts))
    recovery.recover_lost_runs()
    assert client.state_names(run) == expected


def test_a_run_that_its_worker_calls_crashed_once_more_goes_on_all_the_same(
    client: FakeClient, recovery: Recovery
) -> None:
    run = client.add(make_run(KILLED[0], timedelta(seconds=1), run_count=1))
    recovery.recover_lost_runs()
    client.set_state(run, KILLED[1].model_copy(update={"timestamp": datetime.now(UTC)}))
    recovery.recover_lost_runs()
    assert client.state_names(run) == ["Scheduled", "Scheduled"]


def test_a_cancelled_run_without_process_is_cancelled(client: FakeClient, recovery: Recovery) -> None:
    run = client.add(make_run(Cancelling()))
    recovery.recover_lost_runs()
    assert recovery.recover_lost_runs() == ["'run' is cancelled: its process is gone"]
    assert client.state_names(run) == ["Cancelled"]


@pytest.mark.parametrize(("age", "is_killed"), [(timedelta(seconds=50), False), (timedelta(seconds=70), True)])
def test_a_cancelled_run_that_nobody_ends_is_killed(
    age: timedelta, is_killed: bool, client: FakeClient, processes: dict[str, Process], recovery: Recovery
) -> None:
    run = client.add(make_run(Cancelling(), age))
    process = processes[str(run.id)] = Process()
    recovery.recover_lost_runs()
    assert process.is_killed == is_killed
    processes[str(run.id)] = Process(is_gone=True)  # it has just ended by itself
    recovery.recover_lost_runs()


def test_flows_inside_a_lost_run_crash_but_deployed_ones_go_on(client: FakeClient, recovery: Recovery) -> None:
    run = client.add(make_run(Running()))
    inside = client.add(make_run(Running(), work_pool_name=None), run)
    deeper = client.add(make_run(Running(), work_pool_name=None), inside)
    ended = client.add(make_run(Completed(), work_pool_name=None), run)
    deployed = client.add(make_run(Running(), work_pool_name="desk", deployment_id=uuid4()), run)
    recovery.recover_lost_runs()
    recovery.recover_lost_runs()
    assert [client.state_names(each) for each in (inside, deeper, run)] == [["Crashed"], ["Crashed"], ["Scheduled"]]
    assert client.changes[-1][0] == run.id  # what was inside has ended when the run goes on
    assert client.state_names(ended) == client.state_names(deployed) == []


def test_at_the_end_of_serve_every_run_is_put_back_at_once(client: FakeClient, recovery: Recovery) -> None:
    runs = [client.add(make_run(state)) for state in (Running(), Pending(), Cancelling())]
    other = client.add(make_run(Running(), worker="desk-local"))
    assert len(recovery.recover_all_runs()) == 3
    assert [client.runs[run.id].state.type for run in runs] == [  # type: ignore[union-attr] # each has a state
        StateType.SCHEDULED,
        StateType.SCHEDULED,
        StateType.CANCELLED,
    ]
    assert client.state_names(other) == []
