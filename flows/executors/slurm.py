"""Measuring on a node of a Slurm cluster: a job that dask-jobqueue submits, and one Prefect task in it.

The node shares the state directory with the machine that submits. It connects to that machine and to Prefect's server;
Dask's connections are encrypted, and nothing needs root.
"""

from __future__ import annotations

import getpass
import logging
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event
from typing import Any

import dask
from dask_jobqueue.slurm import SLURMCluster
from prefect import flow, get_client, task
from prefect.cache_policies import NO_CACHE
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_dask.task_runners import DaskTaskRunner

from slimline.flows.config.host import HostError, Slurm
from slimline.flows.executors.work_pool import ATTEMPTS, MARGIN_S
from slimline.flows.measure import measure
from slimline.flows.run import Order
from slimline.flows.ui.progress import say
from slimline.storage.paths import home

_POLL_S = 2.0
_LOST_AFTER_S = 30.0
_COMMAND_S = 60.0
_LOG_LINES = 5
# Where Prefect keeps what belongs to the run. Keys and passwords reach the job through sbatch, not through its script,
# which others may read.
_PASSED_ON = ("PREFECT_RESULTS_LOCAL_STORAGE_PATH", "PREFECT_LOGGING_LEVEL", "SLIMLINE_STORE")

_log = logging.getLogger(__name__)


class _JobError(RuntimeError):
    """The job ended before its work was done; another job goes on with the work."""


class _Job:
    """The only job of a cluster, and the Prefect flow that waits for it."""

    def __init__(self, host: Slurm, cluster: Any, stop: Event) -> None:
        self._host, self._cluster, self._stop = host, cluster, stop

    def measure(self, order: Order) -> None:
        """Submit the job, and have it measure.

        Raises:
            HostError: as `measure_in_job`.
            _JobError: the job has ended before it had measured.
        """
        self._submit()
        self._await_start()
        address, security = self._cluster.scheduler_address, self._cluster.security
        runner: Any = DaskTaskRunner(address=address, client_kwargs={"security": security})
        _job.set(self)
        _measure_in_cluster.with_options(task_runner=runner)(order)

    def _submit(self) -> None:
        """Ask Slurm whether it would take the job, because Dask does not tell why it did not; then submit it."""
        script = home() / "slurm" / f"{self._cluster.job_name}.sh"
        script.write_text(self._cluster.job_script(), "utf8")
        refused, output = _command("sbatch", "--test-only", str(script))
        if refused:
            raise HostError(f"sbatch refuses the job {script}: {output}")
        _command("scancel", "--user", getpass.getuser(), "--name", self._cluster.job_name)  # of a killed benchmark
        self._cluster.scale(jobs=1)

    def _await_start(self) -> None:
        minutes = self._host.start_within_minutes
        deadline = time.monotonic() + minutes * 60
        while not self._is_connected():
            self._sleep()
            job = self.identifier
            ended, status = _command("squeue", "--noheader", "--jobs", job, "--format", "%T %r") if job else (0, "?")
            if ended or not status:
                raise _JobError(f"job {job} ended before it began to measure: {self._log_tail()}")
            if time.monotonic() > deadline:
                raise HostError(f"job {job} did not start within {minutes:g} minutes: {status}")

    def await_end(self, future: Any) -> None:
        """Wait for the task that was submitted to the job; raises what `measure` does."""
        minutes = self._host.limit_minutes
        seen = time.monotonic()
        deadline = seen + minutes * 60 + MARGIN_S
        while not future.wrapped_future.done():
            self._sleep()
            now = time.monotonic()
            seen = now if self._is_connected() else seen
            if now - seen > _LOST_AFTER_S:
                raise _JobError(f"job {self.identifier} or its node ended: {self._log_tail()}")
            if now > deadline:
                raise HostError(f"job {self.identifier} was not done within {minutes:g} minutes")
        if future.wrapped_future.status != "finished":
            raise _JobError(f"job {self.identifier} ended: {self._log_tail()}")
        future.wait()
        if not future.state.is_completed():
            raise _JobError(f"job {self.identifier}: {future.state.message}")

    def _sleep(self) -> None:
        if self._stop.wait(_POLL_S):
            raise HostError("the run was stopped")

    def _is_connected(self) -> bool:
        return bool(self._cluster.scheduler_info["workers"])

    @property
    def identifier(self) -> str:
        """Slurm's identifier of the job; empty before it has one."""
        return next((str(job.job_id) for job in self._cluster.workers.values() if job.job_id), "")

    def _log_tail(self) -> str:
        logs = sorted((home() / "slurm" / "logs").glob(f"{self._cluster.job_name}-*.err"), key=os.path.getmtime)
        lines = logs[-1].read_text("utf8", "replace").splitlines() if logs else []
        return " | ".join(lines[-_LOG_LINES:]) or "it left no log"


_job: ContextVar[_Job] = ContextVar("job")


# Dask pickles a task and the flow around it by value: what they call is a plain function, which goes by its name.
@task(name="measure-in-job", task_run_name="measure in a Slurm job", cache_policy=NO_CACHE, persist_result=False)
def _measure_task(order: Order) -> None:
    _measure_here(order)


@flow(name="slurm", flow_run_name="measure {order.study.name} in a Slurm job of {order.host}")
def _measure_in_cluster(order: Order) -> None:
    _await_end(_measure_task.submit(order))


def _measure_here(order: Order) -> None:
    measure(order)


def _await_end(future: Any) -> None:
    _job.get().await_end(future)


def measure_in_job(host: Slurm, order: Order, stop: Event) -> None:
    """Have a job measure an order, and wait for it; one that ends too early is followed by another, which goes on.

    Args:
        host: The cluster, and what to ask of it.
        order: What to measure.
        stop: Ends the job once it is set.

    Raises:
        HostError: Slurm refused the job or did not start it in time, it took too long, or ended too early every time.
    """
    if shutil.which("sbatch") is None:
        raise HostError("there is no sbatch here; run the benchmark on a machine that submits to the cluster")
    with get_client(sync_client=True) as client:
        api = str(client.api_url).rstrip("/")
    reason = ""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with temporary_settings({PREFECT_API_URL: api}), _start_cluster(host, order, api) as cluster:
                _Job(host, cluster, stop).measure(order)
                return
        except _JobError as error:
            reason = str(error)
            say(f"{host.name}, attempt {attempt} of {ATTEMPTS}: {reason}")
    raise HostError(f"failed {ATTEMPTS} times, at last: {reason}")


@contextmanager
def _start_cluster(host: Slurm, order: Order, api: str) -> Iterator[Any]:
    """Dask's scheduler for one job; both end with the context."""
    scratch = home() / "slurm"
    scratch.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {
        "queue": host.partition,
        "account": host.account,
        "job_cpu": host.cores,
        "cores": 1,  # threads of Dask's worker, which only waits; what is measured has all
        "processes": 1,
        "memory": host.memory,
        "walltime": host.walltime,
        "interface": host.interface,
        "python": shlex.quote(host.python or sys.executable),
        "job_name": f"slimline-{order.run}-{host.name}",
        "job_extra_directives": list(host.directives),
        "job_script_prologue": _prologue(host, api),
        "log_directory": str(scratch / "logs"),
        "local_directory": str(scratch / "spill"),
        "shared_temp_directory": str(scratch),
        "security": True,
        "nanny": False,
        "worker_extra_args": ["--no-dashboard"],
        # No page of Dask's: nobody looks at one, and two schedulers that import it at the same time fail.
        "scheduler_options": {"dashboard": False, "dashboard_address": "127.0.0.1:0"},
    }
    # A task whose worker was killed goes to another job, which this process starts.
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), SLURMCluster(**options) as cluster:
        yield cluster


def _prologue(host: Slurm, api: str) -> list[str]:
    variables = {"PREFECT_API_URL": api, "SLIMLINE_HOME": str(home())}
    variables |= {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    exports = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    return [*(f"module load {shlex.quote(module)}" for module in host.modules), *host.prologue, *exports]


def _command(*words: str) -> tuple[int, str]:
    """Exit status of one of Slurm's commands, and the end of what it said."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_COMMAND_S, check=False)  # noqa: S603 - no shell, our own words
    except subprocess.TimeoutExpired:
        _log.warning("%s does not answer within %g s", words[0], _COMMAND_S)
        return 0, f"{words[0]} does not answer"
    lines = (done.stderr or done.stdout).strip().splitlines()
    return done.returncode, lines[-1] if lines else ""
