"""The whole line on real input: one smoke run, what it leaves behind, and what a second run does not do again."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore
from slimline.storage.metrics.store import MetricsStore
from tests.command import ROOT, SECOND_RUN, FirstRun, environment, run_command
from tests.e2e.server import wait_until

pytestmark = pytest.mark.e2e

SHORT_RUN = ("run", "smoke", "--variants", "pruned", "--rounds", "1")
VARIANTS = ["original", "pruned", "quantized", "onnx", "int8"]


@pytest.fixture(scope="module")
def run(first_run: FirstRun) -> str:
    """The first run's identifier."""
    return first_run.stderr.split("run ", 1)[1].split(":", 1)[0]


def table_of(run: str, home: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(run_command("table", "--run", run, "--format", "json", home=home).stdout)
    return rows


def built(home: Path) -> dict[ArtifactRef, str]:
    store = ArtifactStore(home / "artifacts")
    return {ref: str(store.provenance(ref).created) for ref in store.list()}


def records(home: Path) -> set[str]:
    return {path.name for path in (home / "results").iterdir()}


def test_the_table_has_every_variant_and_the_published_figures(first_run: FirstRun, run: str, smoke_home: Path) -> None:
    assert all(variant in first_run.stdout for variant in VARIANTS)
    assert "delftblue" in first_run.stdout and "462.26" in first_run.stdout
    rows = table_of(run, smoke_home)
    assert [row["variant"] for row in rows] == VARIANTS
    for row in rows:
        assert row["error"] is None
        for metric in ("disk_mb", "disk_gzip_mb", "memory_mb", "memory_over_base_mb", "params_m", "params_nonzero_m"):
            assert row[metric] > 0
        for metric in ("samples_per_s", "es", "em"):
            assert row[f"{metric}_lo"] <= row[metric] <= row[f"{metric}_hi"]


def test_no_library_prints_warnings_of_its_own(first_run: FirstRun) -> None:
    assert "site-packages" not in first_run.stderr  # warnings begin with the file that they come from


def test_what_the_compressions_did(run: str, smoke_home: Path) -> None:
    rows = {row["variant"]: row for row in table_of(run, smoke_home)}
    zeros = 1 - rows["pruned"]["params_nonzero_m"] / rows["pruned"]["params_m"]
    assert zeros == pytest.approx(0.6, abs=0.003)  # norms and biases, 0.3 % of the parameters, are never pruned
    store = ArtifactStore(smoke_home / "artifacts")
    (pruning,) = [made for made in map(store.provenance, store.list()) if made.step["step"] == "group-lasso"][:1]
    assert pruning.notes["sparsity"] == pytest.approx(0.6, abs=0.001)
    assert pruning.notes["block_sparsity"] == pytest.approx(0.6, abs=0.001)
    assert rows["pruned"]["disk_mb"] == pytest.approx(rows["original"]["disk_mb"], rel=0.01)
    assert rows["pruned"]["disk_gzip_mb"] < 0.5 * rows["pruned"]["disk_mb"]
    assert rows["int8"]["disk_mb"] < 0.6 * rows["original"]["disk_mb"]
    answer = MetricsStore(smoke_home / "metrics").query(
        "SELECT metric, value FROM measurements WHERE variant = 'int8' AND metric IN ('matmuls', 'int8_matmuls')"
    )
    assert {row["metric"]: row["value"] for row in answer.to_pylist()} == {"matmuls": 25, "int8_matmuls": 25}
    parity = MetricsStore(smoke_home / "metrics").query(
        "SELECT value FROM measurements WHERE variant = 'onnx' AND metric = 'parity_max_abs'"
    )
    assert parity.to_pylist()[0]["value"] < 1e-3


def test_rounds_are_interleaved_with_the_baseline_twice(run: str, smoke_home: Path) -> None:
    query = f"FROM rounds WHERE run = '{run}' ORDER BY round, position"
    rows = MetricsStore(smoke_home / "metrics").query(query).to_pylist()
    for number in (1, 2):
        turns = [row["variant"] for row in rows if row["round"] == number]
        assert sorted(turns) == sorted([*VARIANTS, "original"])
    assert all(row["finished"] <= following["started"] for row, following in pairwise(rows))
    assert len({row["pid"] for row in rows}) == len(rows)
    assert max(row["base_mb"] for row in rows) < 100


def test_versus_published_has_both(smoke_home: Path) -> None:
    out = run_command("sql", "from versus_published", "--format", "json", home=smoke_home).stdout
    rows = json.loads(out)
    hosts = {(row["variant"], row["published_host"]) for row in rows}
    assert {("original", "delftblue"), ("onnx", "laptop"), ("int8", None)} <= hosts


def test_a_second_run_builds_and_scores_nothing(smoke_home: Path) -> None:
    before, keys = built(smoke_home), records(smoke_home)
    run_command(*SECOND_RUN.split()[1:], home=smoke_home)
    assert built(smoke_home) == before
    assert records(smoke_home) == keys


@pytest.mark.long
def test_after_an_edit_and_damage_what_they_touch_is_built_again_and_nothing_else(
    smoke_home: Path, source_copy: Path
) -> None:
    before = built(smoke_home)
    code = source_copy / "slimline" / "tasks" / "pruning" / "group_lasso.py"
    assert "** 3" in code.read_text("utf8")
    code.write_text(code.read_text("utf8").replace("** 3", "** 2"), "utf8")
    damaged = damage_int8(smoke_home)
    run_command("run", "smoke", "--variants", "onnx,int8", "--rounds", "1", home=smoke_home, source=source_copy)
    run_command("artifacts", "verify", home=smoke_home)
    store, after = ArtifactStore(smoke_home / "artifacts"), built(smoke_home)
    new = [store.provenance(ref).step["step"] for ref in after.keys() - before.keys()]
    assert sorted(new) == ["export-onnx", "group-lasso", "score"]
    assert [ref for ref in before if after[ref] != before[ref]] == [damaged]


def damage_int8(home: Path) -> ArtifactRef:
    """Flip a bit of the int8 model, which `artifacts verify` finds."""
    store = ArtifactStore(home / "artifacts")
    damaged = next(ref for ref in store.list() if store.provenance(ref).step["step"] == "onnx-int8")
    weights = store.path(damaged) / "model.onnx"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(content)
    verified = run_command("artifacts", "verify", home=home, check=False)
    assert verified.returncode == 1 and "model.onnx" in verified.stderr
    return damaged


def end_run(at: str, number: signal.Signals, home: Path) -> int:
    """Start a run, and end it when it prints a text; its exit status. SIGTERM is sent to it alone, others to all."""
    with subprocess.Popen(
        [sys.executable, "-m", "slimline.flows.cli", *SHORT_RUN],
        cwd=ROOT,
        env=environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr and any(at in line for line in process.stderr), f"the run ended before {at!r}"
        (os.kill if number == signal.SIGTERM else os.killpg)(process.pid, number)
        process.communicate()
    wait_until(lambda: not is_group_alive(process.pid), "all its processes have ended")
    return process.returncode


def is_group_alive(group: int) -> bool:
    """Whether a process of the group runs."""
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.Error):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


@pytest.mark.long
def test_a_run_that_was_ended_leaves_the_store_whole_and_the_next_one_goes_on(
    prepared_home: Path, tmp_path: Path
) -> None:
    home = shutil.copytree(prepared_home, tmp_path / "home")
    kept: dict[ArtifactRef, str] = {}
    # When it has begun to train (as Ctrl-C does), to measure, and when it has measured for the first time.
    ends = (("building pruned", signal.SIGINT, 130), ("measuring on", signal.SIGTERM, 143))
    for at, number, status in (*ends, ("round 1 of 1", signal.SIGKILL, -9)):
        assert end_run(at, number, home) == status
        run_command("artifacts", "verify", home=home)
        assert not MetricsStore(home / "metrics").query("FROM runs").num_rows
        assert kept.items() <= built(home).items()
        kept = built(home)
    run_command(*SHORT_RUN, home=home)
    assert kept.items() <= built(home).items()
    rows = json.loads(run_command("table", "--format", "json", home=home).stdout)
    assert [row["variant"] for row in rows] == ["original", "pruned"]
