"""One order on many hosts at once: where it is measured, who fails alone, and what stops everything."""

from collections.abc import Callable
from datetime import UTC, datetime
from threading import Event, current_thread, main_thread
from typing import Any

import pytest

from slimline.flows.config.host import HostError, Local, Pool, Slurm
from slimline.flows.config.study import load_study
from slimline.flows.executors import dispatch, slurm
from slimline.flows.executors.dispatch import measure_everywhere
from slimline.flows.run import Order
from slimline.storage.artifacts.store import ArtifactRef
from tests.system import PATIENCE_S

LOCAL = Local(name="local", limit_minutes=5)
POOL = Pool(name="desk", kind="pool", pool="desk")
OTHER = Pool(name="laptop", kind="pool", pool="laptop")
CLUSTER = Slurm(name="cluster", kind="slurm", cores=1, memory="1GB", walltime="01:00:00")
ORDER = Order(
    run="the-run",
    study=load_study("smoke"),
    started=datetime.now(UTC),
    slice_=ArtifactRef(kind="slice", digest="0" * 64),
)
Measure = Callable[[Order], None]


class Hosts:
    """What each host does with an order, and the rows that say why one has not measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.orders: dict[str, Order] = {}
        self.absences: list[tuple[str, str]] = []
        self.local: Measure = lambda order: None
        self.remote: Callable[[Order, Event], None] = lambda order, stop: None
        monkeypatch.setattr(dispatch, "measure", self._measure)
        monkeypatch.setattr(dispatch, "measure_on_pool", self._measure_elsewhere)
        monkeypatch.setattr(slurm, "measure_in_job", self._measure_elsewhere)
        monkeypatch.setattr(dispatch, "record_absence", self._record_absence)

    def _measure(self, order: Order) -> None:
        assert current_thread() is main_thread()
        self.orders["local"] = order
        self.local(order)

    def _measure_elsewhere(self, host: Any, order: Order, stop: Event) -> None:
        assert current_thread() is not main_thread() and host.name == order.host
        self.orders[host.name] = order
        self.remote(order, stop)

    def _record_absence(self, order: Order, reason: str, *stores: Any) -> None:
        self.absences.append((order.table_host, reason))


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Hosts:
    return Hosts(monkeypatch)


def test_every_host_gets_the_order_with_its_own_name_and_limit(hosts: Hosts) -> None:
    measure_everywhere(ORDER, [POOL, LOCAL, CLUSTER])
    assert {name: order.minutes for name, order in hosts.orders.items()} == {"local": 5, "desk": 720, "cluster": 50}
    assert [hosts.orders[name].host for name in ("desk", "cluster")] == ["desk", "cluster"]
    assert hosts.absences == []


@pytest.mark.parametrize(
    ("error", "reason"), [(HostError("no worker"), "no worker"), (OSError("disk"), "OSError: disk")]
)
def test_a_host_that_fails_has_rows_that_say_so_and_the_others_finish(
    error: Exception, reason: str, hosts: Hosts
) -> None:
    def fail(order: Order, stop: Event) -> None:
        if order.host == "desk":
            raise error
        assert not stop.is_set()

    hosts.remote = fail
    measure_everywhere(ORDER, [LOCAL, POOL, OTHER])
    assert hosts.orders.keys() == {"local", "desk", "laptop"}
    assert hosts.absences == [("desk", reason)]


def test_ctrl_c_here_stops_what_was_started_elsewhere_without_rows(hosts: Hosts) -> None:
    stopped = []

    def interrupt(order: Order) -> None:
        raise KeyboardInterrupt

    def wait(order: Order, stop: Event) -> None:
        assert stop.wait(PATIENCE_S)
        stopped.append(order.host)
        raise HostError("the run was stopped")

    hosts.local, hosts.remote = interrupt, wait
    with pytest.raises(KeyboardInterrupt):
        measure_everywhere(ORDER, [POOL, LOCAL, OTHER])
    assert sorted(stopped) == ["desk", "laptop"]
    assert hosts.absences == []
