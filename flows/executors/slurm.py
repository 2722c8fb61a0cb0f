"""Measuring on a node of a Slurm cluster: a job that dask-jobqueue submits, and one Prefect task in it.

The node shares the state directory with the machine that submits. It connects to that machine and to Prefect's server;
Dask's connections are encrypted, and nothing needs root.
"""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event
from typing import Any

import dask
from dask_jobqueue.slurm import SLURMCluster
from prefect import flow, get_client, task
from prefect.cache_policies import NO_CACHE
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings
from prefect_dask.task_runners import DaskTaskRunner

from slimline.flows.config.host import HostFailed, Slurm
from slimline.flows.executors.work_pool import ATTEMPTS, MARGIN_S
from slimline.flows.measure import measure
from slimline.flows.run import Order
from slimline.flows.ui.progress import say
from slimline.storage.paths import home
from slimline.tasks.steps import ALONE

_POLL_S = 2.0
_LOST_AFTER_S = 30.0
_COMMAND_S = 60.0
_LOG_LINES = 5
# Where Prefect keeps what belongs to the run. Keys and passwords reach the job through sbatch, not through its script,
# which others may read.
_TOLD = ("PREFECT_RESULTS_LOCAL_STORAGE_PATH", "PREFECT_LOGGING_LEVEL", "SLIMLINE_STORE")


class _JobLost(RuntimeError):  # noqa: N818 - read as a sentence
    """The job has ended before its work had; another one goes on with it."""


class _Job:
    """One job of a cluster that has one, and the Prefect flow that waits for it."""

    def __init__(self, host: Slurm, cluster: Any, stop: Event) -> None:
        self._host, self._cluster, self._stop = host, cluster, stop

    def measure(self, order: Order) -> None:
        """Submit the job, and have it measure. Raises as `measure_in_job`, and _JobLost."""
        self._submit()
        self._await_start()
        address, security = self._cluster.scheduler_address, self._cluster.security
        runner: Any = DaskTaskRunner(address=address, client_kwargs={"security": security})
        _job.set(self)
        _in_job.with_options(task_runner=runner)(order)

    def _submit(self) -> None:
        """Ask Slurm whether it would take the job, because Dask does not tell why it did not; then submit it."""
        script = home() / "slurm" / f"{self._cluster.job_name}.sh"
        script.write_text(self._cluster.job_script(), "utf8")
        refused, output = _command("sbatch", "--test-only", str(script))
        if refused:
            raise HostFailed(f"sbatch refuses the job {script}: {output}")
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
                raise _JobLost(f"job {job} ended before it began to measure: {self._last_words()}")
            if time.monotonic() > deadline:
                raise HostFailed(f"job {job} did not start within {minutes:g} minutes: {status}")

    def await_end(self, future: Any) -> None:
        """Wait for what was submitted to the job. Raises as `measure`."""
        minutes = self._host.limit_minutes
        seen = time.monotonic()
        deadline = seen + minutes * 60 + MARGIN_S
        while not future.wrapped_future.done():
            self._sleep()
            now = time.monotonic()
            seen = now if self._is_connected() else seen
            if now - seen > _LOST_AFTER_S:
                raise _JobLost(f"job {self.identifier} or its node died: {self._last_words()}")
            if now > deadline:
                raise HostFailed(f"job {self.identifier} was not done within {minutes:g} minutes")
        if future.wrapped_future.status != "finished":
            raise _JobLost(f"job {self.identifier} died: {self._last_words()}")
        future.wait()
        if not future.state.is_completed():
            raise _JobLost(f"job {self.identifier}: {future.state.message}")

    def _sleep(self) -> None:
        if self._stop.wait(_POLL_S):
            raise HostFailed("the run was stopped")

    def _is_connected(self) -> bool:
        return bool(self._cluster.scheduler_info["workers"])

    @property
    def identifier(self) -> str:
        """Slurm's identifier of the job; empty before it has one."""
        return next((str(job.job_id) for job in self._cluster.workers.values() if job.job_id), "")

    def _last_words(self) -> str:
        logs = sorted((home() / "slurm" / "logs").glob(f"{self._cluster.job_name}-*.err"), key=os.path.getmtime)
        lines = logs[-1].read_text("utf8", "replace").splitlines() if logs else []
        return " | ".join(lines[-_LOG_LINES:]) or "it left no log"


_job: ContextVar[_Job] = ContextVar("job")


# Dask pickles a task and the flow around it by value: what they call is a plain function, which goes by its name.
@task(name="measure-in-job", task_run_name="measure in a Slurm job", cache_policy=NO_CACHE, persist_result=False)
def _measured(order: Order) -> None:
    _measure_here(order)


@flow(name="slurm", flow_run_name="measure {order.study.name} in a Slurm job of {order.host}")
def _in_job(order: Order) -> None:
    _await_end(_measured.submit(order))


def _measure_here(order: Order) -> None:
    measure(order)


def _await_end(future: Any) -> None:
    _job.get().await_end(future)


def measure_in_job(host: Slurm, order: Order, stop: Event) -> None:
    """Have a job measure an order, and wait for it; one that dies is followed by another, which goes on.

    Raises:
        HostFailed: Slurm refused the job or did not start it in time, it took too long, or it died every time.
    """
    if shutil.which("sbatch") is None:
        raise HostFailed("there is no sbatch here; run the benchmark on a machine that submits to the cluster")
    is_alone = get_current_settings().api.url is None
    with get_client(sync_client=True) as client:
        api = str(client.api_url).rstrip("/")
    server = {"PREFECT_API_URL": api, **({ALONE: "1"} if is_alone else {})}
    reason = ""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with temporary_settings({PREFECT_API_URL: api}), _cluster(host, order, server) as cluster:
                _Job(host, cluster, stop).measure(order)
                return
        except _JobLost as lost:
            reason = str(lost)
            say(f"{host.name}, attempt {attempt} of {ATTEMPTS}: {reason}")
    raise HostFailed(f"failed {ATTEMPTS} times, at last: {reason}")


@contextmanager
def _cluster(host: Slurm, order: Order, server: Mapping[str, str]) -> Iterator[Any]:
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
        "job_script_prologue": _prologue(host, server),
        "log_directory": str(scratch / "logs"),
        "local_directory": str(scratch / "spill"),
        "shared_temp_directory": str(scratch),
        "security": True,
        "nanny": False,
        "worker_extra_args": ["--no-dashboard"],
        # No page of Dask's: nobody looks at one, and two schedulers that import it at the same time fail.
        "scheduler_options": {"dashboard": False, "dashboard_address": "127.0.0.1:0"},
    }
    # A task whose worker died goes to another job, which this process starts.
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), SLURMCluster(**options) as cluster:
        yield cluster


def _prologue(host: Slurm, server: Mapping[str, str]) -> list[str]:
    told = {**server, "SLIMLINE_HOME": str(home())}
    told |= {name: os.environ[name] for name in _TOLD if name in os.environ}
    exports = [f"export {name}={shlex.quote(value)}" for name, value in told.items()]
    return [*(f"module load {shlex.quote(module)}" for module in host.modules), *host.prologue, *exports]


def _command(*words: str) -> tuple[int, str]:
    """Exit status of one of Slurm's commands, and the end of what it said."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_COMMAND_S, check=False)  # noqa: S603 - no shell, our own words
    except subprocess.TimeoutExpired:
        return 0, f"{words[0]} does not answer"
    lines = (done.stderr or done.stdout).strip().splitlines()
    return done.returncode, lines[-1] if lines else ""
