"""Measuring on every host at once; where a host cannot measure, rows say why, and the others finish."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from threading import Event

from slimline.flows.config.host import HostError, Local, Pool, Slurm
from slimline.flows.executors.work_pool import measure_on_pool
from slimline.flows.measure import measure
from slimline.flows.run import Order, failure_reason, record_absence
from slimline.flows.ui.progress import say
from slimline.storage.stores import artifact_store, metrics_store

Executor = Callable[[Order, Event], None]

_log = logging.getLogger(__name__)


def measure_everywhere(order: Order, hosts: Sequence[Local | Pool | Slurm]) -> None:
    """Measure an order on every host. One measures here, in this thread; for each other a thread waits."""
    executors = [(host, _choose_executor(host)) for host in hosts]
    stop = Event()
    with ThreadPoolExecutor(max_workers=len(executors)) as threads:
        try:
            others = [
                threads.submit(copy_context().run, _measure_on, host, executor, order, stop)
                for host, executor in executors
                if not isinstance(host, Local)
            ]
            for host, executor in executors:
                if isinstance(host, Local):
                    _measure_on(host, executor, order, stop)
            for other in others:
                other.result()
        except BaseException:
            stop.set()  # what was started elsewhere is cancelled
            raise


def _choose_executor(host: Local | Pool | Slurm) -> Executor:
    """How the host is reached. Dask is imported where it is needed only, and in the main thread, as it demands."""
    if isinstance(host, Pool):
        return partial(measure_on_pool, host)
    if isinstance(host, Slurm):
        try:
            from slimline.flows.executors.slurm import measure_in_job
        except ImportError as error:
            return partial(_fail, error)
        return partial(measure_in_job, host)
    return lambda order, stop: measure(order)


def _fail(error: ImportError, order: Order, stop: Event) -> None:
    raise error


def _measure_on(host: Local | Pool | Slurm, executor: Executor, order: Order, stop: Event) -> None:
    order = order.at(host).model_copy(update={"minutes": host.limit_minutes})
    say(f"measuring on {order.table_host}")
    try:
        executor(order, stop)
    except Exception as error:
        reason = str(error) if isinstance(error, HostError) else failure_reason(error)
        say(f"{order.table_host} failed: {reason}")
        _log.debug("%s failed", order.table_host, exc_info=True)
        if not stop.is_set():  # else the same run may go on later
            record_absence(order, reason, artifact_store(), metrics_store())
