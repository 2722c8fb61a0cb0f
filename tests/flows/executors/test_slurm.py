"""Slurm jobs without Slurm: refused, waiting, cancelled, killed under way, too long; and what a job's script says."""

import getpass
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.states import Completed, Failed

from slimline.flows.config.host import HostError, Slurm
from slimline.flows.config.study import load_study
from slimline.flows.executors import slurm
from slimline.flows.executors.slurm import measure_in_job
from slimline.flows.run import Order
from slimline.storage.artifacts.store import ArtifactRef
from tests.flows.fakes import Clock, FakeClient, StopEvent

HOST = Slurm(
    name="cluster",
    kind="slurm",
    partition="compute",
    account="research",
    cores=8,
    memory="4GB",
    walltime="01:00:00",
    modules=("2024r1", "a module"),
    prologue=("ulimit -c 0",),
    directives=("--exclusive",),
    interface="lo",
    python="/opt/my python",
    start_within_minutes=1,
    limit_minutes=50,
)
ORDER = Order(
    run="the-run",
    study=load_study("smoke"),
    started=datetime.now(UTC),
    host="cluster",
    slice_=ArtifactRef(kind="slice", digest="0" * 64),
)
NAME = "slimline-the-run-cluster"


class Cluster:
    """Dask's cluster: one job, whose worker is connected or not."""

    job_name, scheduler_address, security = NAME, "tls://127.0.0.1:1", None

    def __init__(self) -> None:
        self.is_connected, self.scale_calls = False, 0
        self.workers: dict[int, Any] = {}

    @property
    def scheduler_info(self) -> dict[str, Any]:
        return {"workers": {"tls://127.0.0.1:2": {}} if self.is_connected else {}}

    def job_script(self) -> str:
        return "#!/bin/sh\n"

    def scale(self, jobs: int) -> None:
        assert jobs == 1
        self.scale_calls += 1
        self.workers = {0: SimpleNamespace(job_id=None), 1: SimpleNamespace(job_id="42")}


class Future:
    """A Prefect future of a task in a job, on a future of Dask's."""

    def __init__(self) -> None:
        self.state: Any = Completed()
        self.status = "pending"
        self.wrapped_future = self

    def done(self) -> bool:
        return self.status != "pending"

    def wait(self) -> None:
        return

    def end(self, status: str = "finished", state: Any = None) -> None:
        self.status, self.state = status, state or self.state


class Jobs:
    """Slurm's commands as scripts, clusters as fakes, and what happens to each attempt's job."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.answers = Clock(), home / "answers"
        self.stop = StopEvent(self.clock)
        self.clusters: list[Cluster] = []
        self.plans: list[Callable[[Cluster, Future], object]] = []
        self.logs = home / "slurm" / "logs"
        self.logs.mkdir(parents=True)
        binaries = home / "bin"
        for directory in (self.answers, binaries):
            directory.mkdir()
        for name in ("sbatch", "squeue", "scancel"):
            (binaries / name).symlink_to(Path(__file__).parent / "programs" / "slurm_command.sh")
        self.answer("squeue", "PENDING Priority")
        monkeypatch.setenv("PATH", f"{binaries}:/usr/bin:/bin")
        monkeypatch.setenv("FAKE_SLURM", str(self.answers))
        monkeypatch.setenv("SLIMLINE_HOME", str(home))
        monkeypatch.setattr(slurm, "time", self.clock)
        monkeypatch.setattr(slurm, "get_client", lambda sync_client: FakeClient())
        monkeypatch.setattr(slurm, "_start_cluster", self._start_cluster)
        monkeypatch.setattr(slurm, "DaskTaskRunner", lambda **options: options)
        monkeypatch.setattr(slurm, "_measure_in_cluster", SimpleNamespace(with_options=self._with_options))

    @contextmanager
    def _start_cluster(self, host: Slurm, order: Order, api: str) -> Iterator[Cluster]:
        assert (host, order, api) == (HOST, ORDER, "http://127.0.0.1:8000/api")
        self.clusters.append(Cluster())
        self._future = Future()
        self.plans[len(self.clusters) - 1](self.clusters[-1], self._future)
        yield self.clusters[-1]

    def _with_options(self, task_runner: dict[str, Any]) -> Callable[[Order], None]:
        assert task_runner["address"] == Cluster.scheduler_address
        return lambda order: slurm._await_end(self._future)

    def answer(self, command: str, text: str, is_error: bool = False) -> None:
        """What a command says from now on."""
        (self.answers / f"{command}.err").unlink(missing_ok=True)
        (self.answers / f"{command}.{'err' if is_error else 'out'}").write_text(text)

    def plan(self, *steps: tuple[float, Callable[[Cluster, Future], object]]) -> None:
        """What happens to the next attempt's job, seconds after its cluster's start each."""

        def follow(cluster: Cluster, future: Future) -> None:
            for seconds, action in steps:
                self.clock.after(seconds, lambda action=action: action(cluster, future))

        self.plans.append(follow)

    @property
    def calls(self) -> list[str]:
        """The commands that were run."""
        return (self.answers / "calls").read_text().splitlines()

    def measure(self) -> None:
        measure_in_job(HOST, ORDER, self.stop)


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    return Jobs(tmp_path, monkeypatch)


def connect(cluster: Cluster, future: Future) -> None:
    cluster.is_connected = True


def disconnect(cluster: Cluster, future: Future) -> None:
    cluster.is_connected = False


def complete(cluster: Cluster, future: Future) -> None:
    future.end()


def test_a_job_is_tested_submitted_awaited_and_those_of_a_killed_benchmark_are_cancelled(
    jobs: Jobs, tmp_path: Path
) -> None:
    jobs.plan((20, connect), (60, complete))
    jobs.measure()
    script = tmp_path / "slurm" / f"{NAME}.sh"
    assert jobs.calls[:2] == [
        f"sbatch --test-only {script}",
        f"scancel --user {getpass.getuser()} --name {NAME}",
    ]
    assert set(jobs.calls[2:]) == {"squeue --noheader --jobs 42 --format %T %r"}
    assert jobs.clusters[0].scale_calls == 1


def test_a_job_that_slurm_refuses_is_not_tried_again(jobs: Jobs) -> None:
    jobs.answer("sbatch", "sbatch: error:\nsbatch: error: invalid partition specified: none\n", is_error=True)
    jobs.plan()
    with pytest.raises(HostError, match=r"sbatch refuses.*invalid partition specified: none"):
        jobs.measure()
    assert jobs.clusters[0].scale_calls == 0 and len(jobs.clusters) == 1


def test_a_job_that_waits_in_the_queue_for_too_long_is_given_up(jobs: Jobs) -> None:
    jobs.plan()
    with pytest.raises(HostError, match="job 42 did not start within 1 minutes: PENDING Priority"):
        jobs.measure()
    assert jobs.clock.now == pytest.approx(1060, abs=2.1)


@pytest.mark.parametrize(("text", "is_error"), [("", False), ("slurm_load_jobs error: Invalid job id", True)])
def test_a_job_that_is_cancelled_in_the_queue_is_followed_by_another(text: str, is_error: bool, jobs: Jobs) -> None:
    jobs.plan((20, lambda *_: jobs.answer("squeue", text, is_error)))
    jobs.plan((0, lambda *_: jobs.answer("squeue", "RUNNING None")), (1, connect), (60, complete))
    jobs.measure()
    assert len(jobs.clusters) == 2


def test_a_job_that_ends_three_times_is_given_up_with_the_end_of_its_log(jobs: Jobs) -> None:
    jobs.answer("squeue", "")
    older, newer = jobs.logs / f"{NAME}-41.err", jobs.logs / f"{NAME}-42.err"
    for path in (older, newer):
        path.write_text(f"{path.name}\n" + "\n".join(f"line {number}" for number in range(9)) + "\n")
    for _ in range(3):
        jobs.plan()
    with pytest.raises(HostError, match=r"3 times.*job 42 ended before it began.*line 7 \| line 8$"):
        jobs.measure()
    assert len(jobs.clusters) == 3


def test_a_job_without_log_says_so(jobs: Jobs) -> None:
    jobs.answer("squeue", "")
    for _ in range(3):
        jobs.plan()
    with pytest.raises(HostError, match="left no log"):
        jobs.measure()


def test_a_job_that_slurm_does_not_tell_about_is_waited_for(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.run

    def time_out(words: tuple[str, ...], **options: Any) -> Any:
        if words[0] == "squeue":
            raise subprocess.TimeoutExpired(words, 60)
        return run(words, **options)

    monkeypatch.setattr(slurm, "subprocess", SimpleNamespace(run=time_out, TimeoutExpired=subprocess.TimeoutExpired))
    jobs.plan((60, connect), (90, complete))
    jobs.measure()
    assert len(jobs.clusters) == 1


def test_a_node_that_is_gone_for_a_moment_is_waited_for_and_else_another_job_follows(jobs: Jobs) -> None:
    jobs.plan((1, connect), (60, disconnect), (80, connect), (100, disconnect))
    jobs.plan((1, connect), (60, complete))
    jobs.measure()
    assert len(jobs.clusters) == 2
    assert jobs.clock.now > 1000 + 100 + slurm._LOST_AFTER_S


@pytest.mark.parametrize(
    ("status", "state", "reason"),
    [("error", None, "job 42 ended"), ("finished", Failed(message="no space"), "job 42: no space")],
)
def test_a_task_that_does_not_end_well_is_followed_by_another_job(
    status: str, state: Any, reason: str, jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs.plan((1, connect), (60, lambda _, future: future.end(status, state)))
    jobs.plan((1, connect), (60, complete))
    jobs.measure()
    assert len(jobs.clusters) == 2


def test_a_job_that_takes_too_long_is_given_up(jobs: Jobs) -> None:
    jobs.plan((1, connect))
    with pytest.raises(HostError, match="job 42 was not done within 50 minutes"):
        jobs.measure()
    assert jobs.clock.now > 1000 + 50 * 60 + slurm.MARGIN_S


@pytest.mark.parametrize("steps", [(), ((1, connect),)], ids=["in the queue", "measuring"])
def test_a_run_that_is_stopped_gives_its_job_up(steps: Any, jobs: Jobs) -> None:
    jobs.plan(*steps)
    jobs.clock.after(30, jobs.stop.set)
    with pytest.raises(HostError, match="stopped"):
        jobs.measure()


def test_without_sbatch_nothing_is_started(jobs: Jobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="no sbatch here"):
        jobs.measure()


def test_a_jobs_script_has_what_the_host_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMLINE_HOME", str(tmp_path / "my home"))
    monkeypatch.setenv("SLIMLINE_STORE", "s3://bench/it's")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with slurm._start_cluster(HOST, ORDER, "http://desk:4200/api") as cluster:
        script = cluster.job_script()
        assert cluster.job_name == NAME
        assert cluster.scheduler_address.startswith("tls://127.0.0.1:")
    for line in (
        "#SBATCH -p compute",
        "#SBATCH -A research",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=4G",
        "#SBATCH -t 01:00:00",
        "#SBATCH --exclusive",
        "module load 2024r1",
        "module load 'a module'",
        "ulimit -c 0",
        "export PREFECT_API_URL=http://desk:4200/api",
        f"export SLIMLINE_HOME='{tmp_path}/my home'",
        """export SLIMLINE_STORE='s3://bench/it'"'"'s'""",
    ):
        assert line in script.splitlines()
    assert "'/opt/my python' -m distributed" in script
    assert "secret" not in script


def test_the_job_measures_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    orders = []
    monkeypatch.setattr(slurm, "measure", orders.append)
    slurm._measure_task.fn(ORDER)
    futures = []
    monkeypatch.setattr(slurm, "_measure_task", SimpleNamespace(submit=lambda order: order.run))
    monkeypatch.setattr(slurm, "_await_end", futures.append)
    slurm._measure_in_cluster.fn(ORDER)
    assert orders == [ORDER] and futures == ["the-run"]
