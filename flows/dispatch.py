"""Measuring on every host at once; a host that cannot gets rows that say why, and the others finish."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from threading import Event

from flows.hosts import HostFailed, Local, Pool, Slurm
from flows.measure import measure
from flows.pools import measure_on_pool
from flows.progress import say
from flows.recording import Order, record_absence
from storage.opening import artifact_store, metrics_store


def measure_everywhere(order: Order, hosts: Sequence[Local | Pool | Slurm]) -> None:
    """Measure an order on every host. One measures here, in this thread; for each other a thread waits."""
    there = [host for host in hosts if not isinstance(host, Local)]
    stop = Event()
    with ThreadPoolExecutor(max_workers=max(1, len(there))) as threads:
        try:
            waiting = [threads.submit(copy_context().run, _measure_on, host, order, stop) for host in there]
            for host in hosts:
                if isinstance(host, Local):
                    _measure_on(host, order, stop)
            for each in waiting:
                each.result()
        except BaseException:
            stop.set()  # what was started elsewhere is cancelled
            raise


def _measure_on(host: Local | Pool | Slurm, order: Order, stop: Event) -> None:
    there = order.at(host).model_copy(update={"minutes": host.limit_minutes})
    say(f"measuring on {there.shown_host}")
    try:
        _send(host, there, stop)
    except Exception as error:
        reason = str(error) if isinstance(error, HostFailed) else f"{type(error).__name__}: {error}"
        say(f"{there.shown_host} failed: {reason}")
        if not stop.is_set():  # else the same run may go on later
            record_absence(there, reason, artifact_store(), metrics_store())


def _send(host: Local | Pool | Slurm, order: Order, stop: Event) -> None:
    if isinstance(host, Pool):
        measure_on_pool(host, order, stop)
    elif isinstance(host, Slurm):
        from flows.slurm import measure_in_job  # Dask, which takes a second to import

        measure_in_job(host, order, stop)
    else:
        measure(order)
