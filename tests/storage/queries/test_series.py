"""Series over time: which points are drawn, and where their level changed."""

from datetime import timedelta

from slimline.storage.queries.series import change_points, series_points, study_series
from tests.storage.factories import NOON, measured, verdict_row


def test_many_runs_share_points_by_their_median_and_older_definitions_are_left_out(metrics):
    rows = [measured("int8", "es", float(day), f"r{day}", NOON + timedelta(days=day)) for day in range(6)]
    metrics.append([*rows, measured("int8", "es", 99.0, "first", NOON - timedelta(days=1), metric_version=0)])
    with metrics.connect() as connection:
        each_run = series_points(connection, "embedded", "box", "es", ["int8"], 60)
        assert [(point.run, point.value, point.runs) for point in each_run] == [(f"r{day}", day, 1) for day in range(6)]
        shared = series_points(connection, "embedded", "box", "es", ["int8"], 2)
        assert [(point.run, point.value, point.runs) for point in shared] == [("r2", 1.0, 3), ("r5", 4.0, 3)]
        assert series_points(connection, "embedded", "box", "es", [], 60) == []


def test_the_baselines_series_come_first_and_those_without_a_value_not_at_all(metrics):
    metrics.append([measured("int8", "es", 40.0), measured("int8", "em", None)])
    metrics.append([measured("original", "es", 40.0, label="baseline")])
    with metrics.connect() as connection:
        found = [(series.variant, series.metric) for series in study_series(connection, "embedded")]
    assert found == [("original", "es"), ("int8", "es")]


def test_a_change_point_has_the_words_of_its_newest_verdict(metrics):
    change = {"change_point": "r2", "change_time": NOON, "metric": "es"}
    metrics.append([verdict_row("r2", NOON, verdict="suspicious-unconfirmed", ratio=0.9, **change)])
    metrics.append([verdict_row("r3", NOON + timedelta(days=1), verdict="regression", ratio=0.8, **change)])
    metrics.append([verdict_row("r4", NOON + timedelta(days=2), verdict="ok", metric="es")])
    with metrics.connect() as connection:
        (found,) = change_points(connection, "embedded", "box", "es", ["int8"])
    assert (found.run, found.verdict, found.ratio) == ("r2", "regression", 0.8)
