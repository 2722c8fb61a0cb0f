"""The views of nightly verdicts, and how they are printed."""

import json
from datetime import timedelta

import pytest

from slimline.dashboards.reports.regressions import render_regressions, render_verdicts
from slimline.storage.metrics.rows import HostRow, Suspect
from slimline.storage.queries.history import read_history, read_predictions, read_rounds, run_hosts
from slimline.storage.queries.results import host_rows, result_rows
from tests.storage.factories import NOON, measured, prediction_row, round_row, run_row, verdict_row

DAY = timedelta(days=1)


def told(run, night, verdict="regression", **changes):
    row = {"study": "smoke", "host_class": "class", "verdict": verdict, "value": 2.5, "reference": 3.0}
    row |= {"ratio": 2.5 / 3, "change_point": run, "suspects": (), "reason": "slower"}
    return verdict_row(run, NOON + night * DAY, **(row | changes))


def turn(run, number, variant, replicate, speed, **changes):
    row = {"replicate": replicate, "started": NOON, "samples_per_s": speed, "memory_over_base_mb": 50.0}
    return round_row(variant, number, run, **(row | {"samples": 4, "prompt_tokens": 9} | changes))


def rows(store, sql):
    return store.query(sql).to_pylist()


def test_regressions_has_the_newest_of_each_series(metrics):
    metrics.append([told("r1", 1), told("r2", 2, value=2.0, reference=2.5), told("r3", 3, verdict="ok")])
    metrics.append([told("r1", 1, variant="onnx"), told("r2", 2, host="twin"), told("r1", 1, study="mine")])
    found = rows(metrics, "SELECT run, study, variant, state FROM regressions ORDER BY study, variant, run")
    assert [tuple(row.values()) for row in found] == [
        ("r1", "mine", "int8", "open"),
        ("r2", "smoke", "int8", "open"),
        ("r1", "smoke", "onnx", "open"),
    ]


@pytest.mark.parametrize(
    ("value", "state"), [(3.0, "recovered"), (2.76, "recovered"), (3.4, "recovered"), (2.7, "open"), (2.2, "open")]
)
def test_an_improvement_that_undoes_half_of_it_recovers(metrics, value, state):
    metrics.append([told("r1", 1), told("r2", 2, verdict="improvement", value=value, reference=2.5)])
    (row,) = rows(metrics, "FROM regressions")
    assert (row["state"], row["recovered_run"]) == (state, "r2" if state == "recovered" else None)


def test_less_memory_recovers_more_memory(metrics):
    metric = {"metric": "memory_over_base_mb"}
    metrics.append([told("r1", 1, value=60.0, reference=50.0, **metric)])
    metrics.append([told("r2", 2, verdict="improvement", value=51.0, reference=60.0, **metric)])
    assert rows(metrics, "SELECT state FROM regressions") == [{"state": "recovered"}]


def test_an_improvement_before_it_or_of_another_series_recovers_nothing(metrics):
    better = {"verdict": "improvement", "value": 3.0}
    metrics.append([told("r1", 1), told("r0", 0, **better), told("r2", 2, **better, variant="onnx")])
    metrics.append([told("r2", 2, **better, metric_version=2), told("r2", 2, **better, host_class="other")])
    assert rows(metrics, "SELECT state FROM regressions") == [{"state": "open"}]


def test_rounds_are_paired_with_the_baseline_of_the_same_round(metrics):
    metrics.append([run_row("r1")])
    metrics.append([turn("r1", 1, "original", 0, 10.0), turn("r1", 1, "original", 1, 12.0)])
    metrics.append([turn("r1", 1, "int8", 0, 33.0), turn("r1", 2, "int8", 0, 40.0)])
    metrics.append([turn("r1", 3, "int8", 0, None, error="it broke")])
    found = rows(metrics, "SELECT round, variant, speed_ratio, baseline_self_ratio FROM paired_rounds ORDER BY ALL")
    assert [tuple(row.values()) for row in found] == [
        (1, "int8", 3.0, 1.2),
        (1, "original", 1.0, 1.2),
        (2, "int8", None, None),
    ]


def test_the_fastest_passes_are_paired_as_well_and_are_what_a_history_compares(metrics):
    metrics.append([run_row("r1"), run_row("r2", NOON + DAY)])
    for run, fastest in (("r1", (20.0, 25.0, 90.0)), ("r2", (None, None, None))):
        turns = [("original", 0, 10.0), ("original", 1, 12.0), ("int8", 0, 33.0)]
        for turn_of, speed in zip(turns, fastest, strict=True):
            metrics.append([turn(run, 1, *turn_of, undisturbed_per_s=speed)])
    found = rows(
        metrics,
        "SELECT undisturbed_ratio, undisturbed_self_ratio FROM paired_rounds WHERE variant = 'int8' ORDER BY run",
    )
    assert [tuple(row.values()) for row in found] == [(4.0, 1.25), (None, None)]
    compared = [row for row in read_rounds(metrics, ["r1", "r2"]) if row.variant == "int8"]
    assert [(row.speed_ratio, row.baseline_self_ratio) for row in compared] == [(4.0, 1.25), (3.0, 1.2)]


def described(run, host="box", fingerprint="class"):
    return HostRow(run=run, host=host, fingerprint=fingerprint)


def test_a_history_is_of_one_study_and_class_of_hosts_and_leaves_re_runs_out(metrics):
    nights = [run_row(f"r{number}", NOON + number * DAY, study="smoke") for number in range(4)]
    metrics.append([*nights, run_row("other", study="paper"), run_row("again", NOON + DAY, study="smoke")])
    metrics.append([run_row("r1", NOON + DAY, host="twin", study="smoke"), run_row("elsewhere", study="smoke")])
    metrics.append([described(f"r{number}") for number in range(4)])
    metrics.append([described("again"), described("r1", "twin"), described("elsewhere", fingerprint="mine")])
    metrics.append([told("r1", 1, rerun=("again",))])
    metrics.append([turn(run, 1, "int8", 0, 9.0) for run in ("r0", "r3", "again", "other")])
    found = read_history(metrics, "r3", "box", ["speed_ratio"], 60)
    assert [each.key for each in found.past] == [("r0", "box"), ("r1", "box"), ("r1", "twin"), ("r2", "box")]
    assert {row.run for row in found.rounds} == {"r0", "r3", "again"}
    assert len(read_history(metrics, "r3", "box", ["speed_ratio"], 2).past) == 2
    assert len(read_rounds(metrics, ["again", "other"])) == 2
    assert run_hosts(metrics, "r1") == ["box", "twin"]
    with pytest.raises(LookupError, match="'r3' is not stored of host 'nowhere'"):
        read_history(metrics, "r3", "nowhere", [], 60)


def test_predictions_are_found_by_sample_and_target(metrics):
    metrics.append([run_row("r1")])
    scored = [prediction_row("int8", number, prediction="x", target="y", es=50, em=False) for number in range(2)]
    metrics.append(scored)
    now = read_history(metrics, "r1", "box", [], 60).now
    assert read_predictions(metrics, now, "int8") == {(0, "y"): scored[0], (1, "y"): scored[1]}


def test_verdicts_are_printed_the_worst_first(metrics):
    suspect = Suspect(library="torch", before="2.0", after=None)
    found = [told("r1", 1, verdict="ok", history=9), told("r1", 1, variant="a|b\n", history=9, suspects=(suspect,))]
    text = render_verdicts(found, {"box": 0.031, "twin": None}, "text")
    assert text.splitlines()[0] == "1 regression, 1 ok"
    assert "suspects: torch 2.0 -> None" in text and "noise floor of box: 3.1 %" in text and "twin: unknown" in text
    assert text.index("a|b") < text.index("int8")
    assert "a\\|b" in render_verdicts(found, {}, "md")
    assert json.loads(render_verdicts(found, {}, "json"))["verdicts"][0]["verdict"] == "regression"
    assert render_verdicts([], {}, "text").startswith("nothing to judge")
    with pytest.raises(ValueError, match="unknown format 'pdf'; allowed: text, md, json"):
        render_verdicts([], {}, "pdf")


def test_regressions_are_printed(metrics):
    assert render_regressions(metrics, recovered=False, form="text") == "no regression is open\n"
    metrics.append([told("r1", 1), told("r2", 2, verdict="improvement", value=3.0)])
    assert json.loads(render_regressions(metrics, recovered=False, form="json")) == []
    assert "recovered" in render_regressions(metrics, recovered=True, form="text")


def test_a_re_run_is_not_the_newest_run(metrics):
    metrics.append([run_row("r1"), run_row("again", NOON + DAY)])
    metrics.append([measured("int8", "es", 50.0, run=run) for run in ("r1", "again")])
    assert {row.run for row in result_rows(metrics)} == {"again"}
    metrics.append([told("r1", 1, rerun=("again",))])
    assert {row.run for row in result_rows(metrics)} == {"r1"}
    assert {row.run for row in result_rows(metrics, run="again")} == {"again"}
    assert {row.run for row in host_rows(metrics)} == {"r1"}
