"""Waiting for a flow run on a work pool: every way it ends, silence, a server that goes away, and giving up."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Event
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Completed, Crashed, Failed, Pending, Running, Scheduled

from slimline.flows.config.host import HostError, Pool
from slimline.flows.config.study import load_study
from slimline.flows.executors import work_pool
from slimline.flows.executors.work_pool import measure_on_pool
from slimline.flows.run import Order
from slimline.storage.artifacts.store import ArtifactRef
from tests.flows.fakes import Clock, FakeClient, StopEvent, make_run

HOST = Pool(name="desk", kind="pool", pool="desk-pool", start_within_minutes=2, limit_minutes=30)
ORDER = Order(
    run="the-run",
    study=load_study("smoke"),
    started=datetime.now(UTC),
    host="desk",
    slice_=ArtifactRef(kind="slice", digest="0" * 64),
)
CRASHED: State[Any] = Crashed(message="status code: -9")


class Pools:
    """A server with one pool: what happens to each attempt's flow run, and what slimline asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.client, self.has_rows = Clock(), FakeClient(), True
        self.stop: Event = StopEvent(self.clock)
        self.keys: list[str] = []
        self.plans: list[Callable[[FlowRun], object]] = []
        self.client.add_worker("desk-pool", "desk", datetime.now(UTC))
        self.client.deployments.append(SimpleNamespace(name="measure/desk-pool"))
        monkeypatch.setattr(work_pool, "time", self.clock)
        monkeypatch.setattr(work_pool, "get_client", lambda sync_client: self.client)
        monkeypatch.setattr(work_pool, "run_deployment", self._run_deployment)
        monkeypatch.setattr(work_pool, "metrics_store", lambda: None)
        monkeypatch.setattr(work_pool, "stored_rows", lambda *_: SimpleNamespace(measured=self.has_rows))

    def _run_deployment(self, name: str, idempotency_key: str, parameters: dict[str, Any], **options: Any) -> FlowRun:
        assert name == "measure/desk-pool" and options["timeout"] == 0
        assert Order.model_validate(parameters["order"]) == ORDER
        self.keys.append(idempotency_key)
        run = self.client.add(make_run(Scheduled(), work_pool_name="desk-pool"))
        self.plans[len(self.keys) - 1](run)
        return run

    def plan(self, *steps: tuple[float, State[Any]]) -> None:
        """The next attempt's flow run takes these states, seconds after its start each."""

        def follow(run: FlowRun) -> None:
            for seconds, state in steps:
                self.clock.after(seconds, lambda state=state: self.client.set_state(run, state))

        self.plans.append(follow)

    def beat(self, start: float, end: float) -> None:
        """Heartbeats of the flow run, every 30 seconds; the server gets none while it is down."""
        for seconds in range(int(start), int(end), 30):
            self.clock.after(seconds, self._beat)

    def _beat(self) -> None:
        if not self.client.is_down:
            self.client.heartbeats.append(datetime.now(UTC) + timedelta(seconds=self.clock.now))

    def go_down(self, start: float, end: float) -> None:
        """The server does not answer for some time."""
        self.clock.after(start, lambda: setattr(self.client, "is_down", True))
        self.clock.after(end, lambda: setattr(self.client, "is_down", False))

    def measure(self) -> None:
        with temporary_settings({PREFECT_API_URL: "http://desk:4200/api"}):
            measure_on_pool(HOST, ORDER, self.stop)

    @property
    def last_states(self) -> list[str | None]:
        """The states that slimline gave the last flow run."""
        return self.client.state_names(list(self.client.runs.values())[-1])


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> Pools:
    return Pools(monkeypatch)


def test_one_attempt_that_completes_is_enough(pools: Pools) -> None:
    pools.plan((5, Pending()), (10, Running()), (300, Completed()))
    pools.beat(10, 300)
    pools.measure()
    assert pools.keys == ["the-run-desk-1"] and pools.client.changes == []
    assert pools.clock.now == pytest.approx(1300, abs=2.1)


def test_a_failed_one_is_followed_by_another_at_once(pools: Pools) -> None:
    pools.plan((10, Failed(message="no space")))
    pools.plan((10, Completed()))
    pools.measure()
    assert pools.keys == ["the-run-desk-1", "the-run-desk-2"]
    assert pools.clock.now == pytest.approx(1020, abs=5)


def test_a_crashed_one_that_is_put_on_the_schedule_again_needs_no_other_attempt(pools: Pools) -> None:
    pools.plan((10, Running()), (20, CRASHED), (35, Scheduled()), (40, Running()), (60, Completed()))
    pools.measure()
    assert pools.keys == ["the-run-desk-1"]


def test_a_crashed_one_that_stays_so_is_followed_by_another(pools: Pools) -> None:
    pools.plan((20, CRASHED))
    pools.plan((10, Completed()))
    pools.measure()
    assert pools.keys == ["the-run-desk-1", "the-run-desk-2"]
    assert pools.clock.now > 1000 + 20 + work_pool._RECOVERS_WITHIN_S


@pytest.mark.parametrize(
    ("state", "reason"), [(CRASHED, "Crashed: status code: -9"), (Cancelled(message="by hand"), "Cancelled: by hand")]
)
def test_after_three_attempts_the_last_reason_is_told(state: State[Any], reason: str, pools: Pools) -> None:
    for _ in range(3):
        pools.plan((10, state))
    with pytest.raises(HostError, match=f"3 times.*{reason}"):
        pools.measure()
    assert len(pools.keys) == 3


def test_one_whose_heartbeats_stop_is_crashed_and_followed_by_another(pools: Pools) -> None:
    pools.plan((10, Running()))
    pools.beat(10, 100)
    pools.plan((10, Completed()))
    pools.measure()
    first = next(iter(pools.client.runs.values()))
    assert pools.client.state_names(first) == ["Crashed"]
    assert pools.keys == ["the-run-desk-1", "the-run-desk-2"]


def test_one_that_has_never_sent_a_heartbeat_is_not_called_silent(pools: Pools) -> None:
    pools.plan((10, Running()), (900, Completed()))
    pools.measure()
    assert pools.client.changes == []


def test_a_server_that_goes_away_and_comes_back_makes_nobody_silent(pools: Pools) -> None:
    pools.plan((10, Running()), (900, Completed()))
    pools.beat(10, 900)
    pools.go_down(100, 400)
    pools.measure()
    assert pools.keys == ["the-run-desk-1"] and pools.client.changes == []


def test_a_server_that_goes_away_has_heard_of_no_worker_meanwhile(pools: Pools) -> None:
    pools.client.workers.clear()
    pools.plan((500, Pending()), (510, Completed()))
    pools.go_down(60, 400)
    pools.clock.after(480, lambda: pools.client.add_worker("desk-pool", "desk", datetime.now(UTC)))
    pools.measure()
    assert pools.keys == ["the-run-desk-1"]


def test_a_server_that_answers_with_an_error_is_asked_again(pools: Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    pools.plan((10, Completed()))
    read, answers = pools.client.read_flow_run, iter([True, True])

    def read_later(flow_run: UUID) -> FlowRun:
        if next(answers, False):
            request: Any = SimpleNamespace()
            raise PrefectHTTPStatusError("503", request=request, response=request)
        return read(flow_run)

    monkeypatch.setattr(pools.client, "read_flow_run", read_later)
    pools.measure()
    assert pools.keys == ["the-run-desk-1"]


@pytest.mark.parametrize("has_pool", [True, False])
def test_without_a_worker_it_is_cancelled_and_the_command_is_told(has_pool: bool, pools: Pools) -> None:
    pools.client.workers.clear()
    if not has_pool:
        pools.client.pools.clear()
    pools.plan()
    with pytest.raises(HostError, match=r"desk-pool took it within 2 minutes.*worker start --pool desk-pool"):
        pools.measure()
    assert pools.last_states == ["Cancelling"]
    assert pools.clock.now == pytest.approx(1000 + 120 + work_pool._CANCELS_WITHIN_S, abs=5)


def test_a_worker_that_is_offline_is_none_but_a_busy_one_is_waited_for(pools: Pools) -> None:
    pools.plan((600, Running()), (700, Completed()))
    pools.measure()
    pools.client.workers.clear()
    pools.client.add_worker("desk-pool", "desk", None, is_online=False)
    pools.plan()
    with pytest.raises(HostError, match="no worker"):
        pools.measure()


def test_one_that_takes_too_long_is_cancelled(pools: Pools) -> None:
    pools.plan((10, Running()))
    with pytest.raises(HostError, match="within 30 minutes"):
        pools.measure()
    assert pools.last_states == ["Cancelling"]
    assert pools.clock.now > 1000 + 30 * 60 + work_pool.MARGIN_S


def test_one_that_is_stopped_is_cancelled_and_waited_for_a_little(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools.plan((10, Running()))
    pools.clock.after(50, pools.stop.set)
    set_state = pools.client.set_flow_run_state

    def cancel(flow_run: UUID, state: State[Any], force: bool = False) -> None:
        set_state(flow_run, state, force)
        pools.clock.after(3, lambda: pools.client.set_state(pools.client.runs[flow_run], Cancelled()))

    monkeypatch.setattr(pools.client, "set_flow_run_state", cancel)
    with pytest.raises(HostError, match="stopped"):
        pools.measure()
    assert pools.last_states == ["Cancelling"]
    assert pools.clock.now == pytest.approx(1053, abs=3)


def test_rows_that_went_into_another_store_are_missed(pools: Pools) -> None:
    pools.has_rows = False
    pools.plan((10, Completed()))
    with pytest.raises(HostError, match="SLIMLINE_STORE"):
        pools.measure()


def test_without_a_server_nothing_is_started(pools: Pools) -> None:
    with temporary_settings({PREFECT_API_URL: None}), pytest.raises(HostError, match="slimline serve"):
        measure_on_pool(HOST, ORDER, pools.stop)
    assert pools.keys == []


def test_a_new_pool_gets_its_deployment_once(pools: Pools) -> None:
    pools.client.deployments.clear()
    pools.client.pools.clear()
    pools.plan((10, Completed()))
    pools.measure()
    ((name, fields),) = pools.client.created
    assert name == fields["work_pool_name"] == "desk-pool"
    assert fields["entrypoint"] == "slimline.flows.measure.measure"
    assert "desk-pool" in pools.client.pools
    pools.client.deployments.append(SimpleNamespace(name="measure/desk-pool"))
    pools.plan((10, Completed()))
    pools.measure()
    assert len(pools.client.created) == 1
