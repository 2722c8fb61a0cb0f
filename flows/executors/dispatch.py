"""Measuring on every host at once; a host that cannot gets rows that say why, and the others finish."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from threading import Event

from slimline.flows.config.host import HostFailed, Local, Pool, Slurm
from slimline.flows.executors.work_pool import measure_on_pool
from slimline.flows.measure import measure
from slimline.flows.run import Order, record_absence
from slimline.flows.ui.progress import say
from slimline.storage.stores import artifact_store, metrics_store

Way = Callable[[Order, Event], None]


def measure_everywhere(order: Order, hosts: Sequence[Local | Pool | Slurm]) -> None:
    """Measure an order on every host. One measures here, in this thread; for each other a thread waits."""
    ways = [(host, _way(host)) for host in hosts]
    stop = Event()
    with ThreadPoolExecutor(max_workers=len(ways)) as threads:
        try:
            waiting = [
                threads.submit(copy_context().run, _measure_on, host, way, order, stop)
                for host, way in ways
                if not isinstance(host, Local)
            ]
            for host, way in ways:
                if isinstance(host, Local):
                    _measure_on(host, way, order, stop)
            for each in waiting:
                each.result()
        except BaseException:
            stop.set()  # what was started elsewhere is cancelled
            raise


def _way(host: Local | Pool | Slurm) -> Way:
    """How the host is reached. Dask is imported where it is needed only, and in the main thread, as it demands."""
    if isinstance(host, Pool):
        return partial(measure_on_pool, host)
    if isinstance(host, Slurm):
        from slimline.flows.executors.slurm import measure_in_job

        return partial(measure_in_job, host)
    return lambda order, stop: measure(order)


def _measure_on(host: Local | Pool | Slurm, way: Way, order: Order, stop: Event) -> None:
    there = order.at(host).model_copy(update={"minutes": host.limit_minutes})
    say(f"measuring on {there.shown_host}")
    try:
        way(there, stop)
    except Exception as error:
        reason = str(error) if isinstance(error, HostFailed) else f"{type(error).__name__}: {error}"
        say(f"{there.shown_host} failed: {reason}")
        if not stop.is_set():  # else the same run may go on later
            record_absence(there, reason, artifact_store(), metrics_store())
