"""What is recorded of a run: its study, the recipes of its variants, its hosts."""

from datetime import timedelta

from slimline.storage.metrics.rows import HostRow
from slimline.storage.queries.runs import RecipeStep, recipe_steps, run_hosts, run_summaries, study_record
from tests.storage.factories import NOON, measured, run_row

RECIPE = [{"step": "export-onnx", "opset": 18}, {"step": "engine", "name": "onnxruntime"}]


def test_runs_are_listed_newest_first_with_whether_they_measured_anything(metrics):
    metrics.append([run_row("r1"), run_row("r1", host="laptop"), run_row("r2", NOON + timedelta(days=1))])
    metrics.append([measured("int8", "es", 50.0, "r1")])
    with metrics.connect() as connection:
        found = run_summaries(connection)
    assert [(each.run, each.has_results) for each in found] == [("r2", False), ("r1", True)]


def test_a_recipe_is_that_of_the_study_of_the_run(metrics):
    metrics.append([run_row("r1", spec={"variants": {"int8": {"recipe": RECIPE}, "original": {}}}), run_row("r2")])
    with metrics.connect() as connection:
        assert recipe_steps(connection, "r1", "int8") == [
            RecipeStep(step="export-onnx"),
            RecipeStep(step="engine", name="onnxruntime"),
        ]
        for run, variant in (("r1", "original"), ("r1", "nonsense"), ("r2", "int8"), ("r3", "int8")):
            assert recipe_steps(connection, run, variant) == []


def test_a_study_that_was_not_recorded_is_null(metrics):
    metrics.append([run_row("r1", git_commit="abc", spec={"name": "embedded"}), run_row("r2")])
    with metrics.connect() as connection:
        record = study_record(connection, "r1")
        assert (record.study, record.git_commit, record.spec) == ("embedded", "abc", {"name": "embedded"})
        assert study_record(connection, "r2").spec is None
        assert study_record(connection, "r3").study is None


def test_a_host_is_described_by_its_newest_record(metrics):
    older = HostRow(host="box", run="r1", cpu="old", recorded=NOON)
    newer = HostRow(host="box", run="r1", cpu="new", recorded=NOON + timedelta(hours=1))
    metrics.append([newer, older, HostRow(host="laptop", run="r1"), HostRow(host="desk", run="r2")])
    with metrics.connect() as connection:
        assert [(row.host, row.cpu) for row in run_hosts(connection, "r1")] == [("box", "new"), ("laptop", None)]
