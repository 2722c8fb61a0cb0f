"""A store written by version 0.1, before the code moved into one package: today's code finds the same rows in it.

`golden/expected.json.gz` has, made by that version's code, every row of every table and view as JSON, and the result
rows of every run.
"""

import gzip
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore
from slimline.storage.metrics.store import MetricsStore
from slimline.storage.queries.results import result_rows
from tests.command import run_command

GOLDEN = Path(__file__).with_name("golden")
NEWER = {"first_written"}  # counts the rows of a file now, not of all files: its order is the same
# What speed_ratio meant before it became a ratio at equal work.
RENAMED = {f"speed_ratio{end}": f"line_speed_ratio{end}" for end in ("", "_lo", "_hi")}
RENAMED["published_speed_ratio"] = "published_line_speed_ratio"
OF_RESULTS = ("result_table", "pareto", "versus_published")
EXPECTED = json.loads(gzip.decompress((GOLDEN / "expected.json.gz").read_bytes()))
PREDICTIONS = ArtifactRef(kind="predictions", digest="22043f20f7805038df1d0f581d1fc1ef910478a70d8c3a45e8a3794b538cb9c3")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return shutil.copytree(GOLDEN, tmp_path_factory.mktemp("golden") / "home")


@pytest.fixture(scope="module")
def metrics(home):
    return MetricsStore(home / "metrics")


def canonical(value):
    """The value with floats to twelve digits: a sum's last digits depend on the order in which threads add."""
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, dict):
        return {key: canonical(each) for key, each in value.items()}
    return [canonical(each) for each in value] if isinstance(value, list) else value


def renamed(value):
    """The value with today's names of its columns, at any depth."""
    if isinstance(value, dict):
        return {RENAMED.get(key, key): renamed(each) for key, each in value.items()}
    return [renamed(each) for each in value] if isinstance(value, list) else value


def comparable(row, keys):
    """One JSON line of the row's values of `keys`; other columns are newer than the store."""
    plain = json.loads(json.dumps(row, default=str))
    return json.dumps(canonical({key: plain[key] for key in keys}), sort_keys=True)


@pytest.mark.parametrize("relation", EXPECTED["views"])
def test_a_table_or_view_has_the_same_rows(metrics, relation):
    expected = [json.loads(line) for line in EXPECTED["views"][relation]]
    expected = renamed(expected) if relation in OF_RESULTS else expected
    found = metrics.query(f"FROM {relation}").to_pylist()
    keys = expected[0].keys() - NEWER if expected else ()
    assert sorted(comparable(row, keys) for row in found) == sorted(comparable(row, keys) for row in expected)


@pytest.mark.parametrize("run", EXPECTED["results"])
def test_a_run_has_the_same_result_rows_in_the_same_order(metrics, run):
    expected = renamed(EXPECTED["results"][run])
    found = [row.flat() for row in result_rows(metrics, run=run)]
    assert [comparable(row, expected[0]) for row in found] == [comparable(row, expected[0]) for row in expected]


def test_the_artifact_is_listed_whole_and_readable(home):
    store = ArtifactStore(home / "artifacts")
    assert store.list() == [PREDICTIONS]
    store.verify(PREDICTIONS)
    assert store.provenance(PREDICTIONS).step["step"] == "score"
    assert pq.read_table(store.path(PREDICTIONS) / "predictions.parquet").num_rows == 24


@pytest.mark.e2e
def test_the_command_prints_the_same_table(home):
    run, expected = next(iter(EXPECTED["results"].items()))
    expected = renamed(expected)
    printed = json.loads(run_command("table", "--run", run, "--format", "json", home=home).stdout)
    assert [comparable(row, expected[0]) for row in printed] == [comparable(row, expected[0]) for row in expected]
