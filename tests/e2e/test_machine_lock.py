"""Two real runs on one machine, each with a state directory and a server of its own: never at the same time."""

import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from slimline.storage.metrics.store import MetricsStore
from tests.command import ROOT, environment
from tests.e2e.server import STUDY

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def test_runs_with_homes_and_servers_of_their_own_measure_one_after_the_other(
    prepared_home: Path, tmp_path: Path
) -> None:
    study = tmp_path / "tiny.yaml"
    study.write_text(yaml.safe_dump(STUDY), "utf8")
    command = [sys.executable, "-m", "slimline.flows.cli", "run", str(study), "--rounds", "2"]
    homes = [shutil.copytree(prepared_home, tmp_path / name) for name in ("one", "other")]
    runs = [
        subprocess.Popen(command, cwd=ROOT, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for home in homes
    ]
    outputs = [run.communicate()[0].decode() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    query = "SELECT started, finished FROM rounds"
    turns = [row for home in homes for row in MetricsStore(home / "metrics").query(query).to_pylist()]
    turns.sort(key=lambda turn: turn["started"])
    assert len(turns) == 2 * 4
    assert [(one, after) for one, after in pairwise(turns) if one["finished"] > after["started"]] == []
