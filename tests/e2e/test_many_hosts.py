"""One benchmark on many hosts, many benchmarks on one host: pools with workers, a real Slurm, one server."""

import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from slimline.storage.metrics.store import MetricsStore
from tests.command import ROOT, SMOKE_DATA, environment, program_command
from tests.e2e.server import Server, wait_until
from tests.e2e.slurm import slurm_cluster

pytestmark = [pytest.mark.e2e, pytest.mark.long]

STUDY = (
    f"data: {SMOKE_DATA}"
    + """
variants:
  original:
    label: baseline
    recipe: [{step: export-onnx}, {step: engine, name: onnxruntime}]
measuring: {rounds: 1, speed_samples: 1, pair_seconds: 0, warmup_samples: 1, decoding: {max_new_tokens: 4}}
"""
)
GUIDE = (ROOT / "docs/hosts.md").read_text("utf8")
# The guide's own files, without what only the real cluster has.
DESK, CLUSTER = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL))
CLUSTER = {name: value for name, value in CLUSTER.items() if name not in ("modules", "interface")}
HOSTS = {
    "desk": yaml.safe_dump(DESK),
    "cluster": yaml.safe_dump(CLUSTER),
    "asleep": "{kind: pool, pool: asleep, start_within_minutes: 0.05}",
    "elsewhere": "{kind: slurm, partition: none, cores: 1, memory: 1GB, walltime: '01:00:00'}",
}
PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the study, and with hosts of one's own."""
    directory = tmp_path_factory.mktemp("hosts")
    (directory / "tiny.yaml").write_text(STUDY)
    for name, content in HOSTS.items():
        (directory / f"{name}.yaml").write_text(content)
    return directory


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """A real Slurm; yields what sbatch needs to find it."""
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as found:
        yield found


@pytest.fixture(scope="module")
def pool_server(server: Server) -> Iterator[Server]:
    """A server, and the workers of two pools; a third pool has none."""
    pools, workers = ("laptop", "desk"), []
    variables = variables_for(server) | {"PREFECT_WORKER_QUERY_SECONDS": "1"}
    try:
        for pool in pools:
            command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
            assert " ".join(command[2:]).replace(pool, "desk") in GUIDE
            workers.append(subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.DEVNULL))
        wait_until(lambda: all(_has_worker(server, pool) for pool in pools), "workers of both pools")
        yield server
    finally:
        for worker in workers:
            worker.kill()  # after a SIGTERM it may go on
            worker.wait()


def _has_worker(server: Server, pool: str) -> bool:
    if pool not in {each["name"] for each in server.ask("work_pools/filter", limit=50)}:
        return False  # a worker creates its pool
    return bool(server.ask(f"work_pools/{pool}/workers/filter", limit=1))


def variables_for(server: Server) -> dict[str, str]:
    return environment(server.home) | server.variables


def rows(server: Server, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = MetricsStore(server.home / "metrics").query(query).to_pylist()
    return found


def run_program(server: Server, name: str, *arguments: object) -> str:
    """The output of a program of tests/e2e/programs that works with the server."""
    finished = subprocess.run(
        program_command(PROGRAMS / name, *arguments),
        cwd=ROOT,
        env=variables_for(server),
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def benchmark(place: Path, pool_server: Server, cluster: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """One benchmark on this machine, two pools and Slurm, twice; with two hosts that are down."""
    hosts = ["local", "laptop", "delftblue"]
    hosts += [str(place / f"{name}.yaml") for name in ("desk", "cluster", "asleep", "elsewhere")]
    named = [word for host in hosts for word in ("--host", host)]
    command = [sys.executable, "-m", "slimline.flows.cli", "run", str(place / "tiny.yaml"), *named]
    variables = variables_for(pool_server) | cluster
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def run(benchmark: subprocess.CompletedProcess[str]) -> str:
    """Its identifier, as a condition of SQL."""
    return f"run = '{benchmark.stderr.split('run ', 1)[1].split(':', 1)[0]}'"


def test_one_benchmark_fills_a_table_grouped_by_host(
    benchmark: subprocess.CompletedProcess[str], run: str, pool_server: Server
) -> None:
    counted = f"SELECT host, count(*) AS n FROM rounds WHERE {run} AND samples_per_s > 0 GROUP BY host ORDER BY host"
    expected = sorted(["cluster", "delftblue", "desk", "laptop", platform.node()])
    assert rows(pool_server, counted) == [{"host": host, "n": 2} for host in expected], benchmark.stderr
    table = rows(pool_server, f"SELECT host, es FROM result_table WHERE {run} AND error IS NULL ORDER BY host")
    assert [row["host"] for row in table] == expected
    assert len({row["es"] for row in table}) == 1
    assert all(host in benchmark.stdout for host in expected)
    (known,) = rows(pool_server, f"SELECT DISTINCT run, flow_run FROM runs WHERE {run}")
    assert known["run"].endswith(known["flow_run"][-6:])


def test_rows_from_slurm_name_job_and_node(
    benchmark: subprocess.CompletedProcess[str], run: str, pool_server: Server
) -> None:
    for table in ("rounds", "hosts"):
        found = rows(pool_server, f"SELECT host, node, slurm_job FROM {table} WHERE {run}")
        assert {"cluster", "delftblue", "desk"} <= {row["host"] for row in found}
        for row in found:
            assert row["node"] == platform.node()
            assert (row["slurm_job"] or "").isdigit() == (row["host"] in ("cluster", "delftblue")), benchmark.stderr


def test_a_host_that_is_down_has_rows_that_say_so(
    benchmark: subprocess.CompletedProcess[str], run: str, pool_server: Server
) -> None:
    failed = rows(pool_server, f"SELECT host, error FROM runs WHERE {run} AND status = 'failed'")
    said = {row["host"]: row["error"] for row in failed}
    assert sorted(said) == ["asleep", "elsewhere"]
    assert "no worker of pool asleep took it within 0.05 minutes" in said["asleep"]
    assert "prefect worker start --pool asleep" in said["asleep"]
    assert "sbatch refuses" in said["elsewhere"] and "partition" in said["elsewhere"]
    absent = rows(pool_server, f"SELECT host, variant, error FROM result_table WHERE {run} AND error IS NOT NULL")
    assert {row["host"]: row["error"] for row in absent} == said
    assert benchmark.returncode == 1
    assert "failed: original on asleep: no worker" in benchmark.stderr


def test_an_order_given_again_measures_only_what_is_missing(pool_server: Server, place: Path) -> None:
    run = run_program(pool_server, "measure_again.py", place / "tiny.yaml").split()[-1]
    found = {name: rows(pool_server, f"FROM rounds WHERE run = '{name}'") for name in (run, "killed")}
    for turns in found.values():
        assert sorted((row["round"], row["replicate"]) for row in turns) == [(1, 0), (1, 1), (2, 0), (2, 1)]
    pids = {name: {row["pid"] for row in turns if row["round"] == 1} for name, turns in found.items()}
    assert pids[run] == pids["killed"]
    for table in ("runs", "hosts"):
        assert rows(pool_server, f"SELECT count(*) AS n FROM {table} WHERE run = 'killed'") == [{"n": 1}]
    for table, key in (("measurements", "metric"), ("predictions", "sample")):
        (counted,) = rows(
            pool_server, f"SELECT count(*) AS n, count(DISTINCT {key}) AS d FROM {table} WHERE run = 'killed'"
        )
        assert counted["n"] == counted["d"] > 0


def test_benchmarks_at_once_measure_one_after_the_other(pool_server: Server, place: Path) -> None:
    before = rows(pool_server, "SELECT count(*) AS n FROM runs")[0]["n"]
    run_program(pool_server, "many_benchmarks.py", place / "tiny.yaml", 4)
    assert rows(pool_server, "SELECT count(*) AS n FROM runs")[0]["n"] == before + 4
    turns = rows(pool_server, "SELECT node, started, finished FROM rounds WHERE run <> 'killed' ORDER BY node, started")
    assert [one for one, after in pairwise(turns) if one["finished"] > after["started"]] == []
    assert list((pool_server.home / "work").glob("*.lock")) == []
