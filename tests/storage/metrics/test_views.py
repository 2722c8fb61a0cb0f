import random
from datetime import timedelta

import pytest

from slimline.storage.metrics.connection import VIEW_FILES
from slimline.storage.queries.results import result_rows
from slimline.tasks.analysis.recommendation import recommend
from tests.storage.factories import NOON, measured, run_row

DAY = timedelta(days=1)


def rows(store, sql):
    return store.query(sql).to_pylist()


def test_result_table_has_one_row_per_run_host_and_variant(metrics):
    metrics.append([run_row(), run_row(host="other", noise_floor=0.07, tainted=True)])
    metrics.append(
        [
            measured("original", "es", 40.0, lo=38.0, hi=42.0, artifact="ab"),
            measured("original", "em", 15.0, artifact="ab"),
            measured("pruned", "es", 31.0, random_weights=True),
            measured("original", "es", 41.0, host="other"),
        ],
    )
    found = rows(metrics, "FROM result_table ORDER BY host, variant")
    assert [(r["host"], r["variant"], r["es"], r["em"], r["tainted"]) for r in found] == [
        ("box", "original", 40.0, 15.0, False),
        ("box", "pruned", 31.0, None, False),
        ("other", "original", 41.0, None, True),
    ]
    first = found[0]
    assert (first["es_lo"], first["es_hi"], first["artifact"], first["label"]) == (38.0, 42.0, "ab", "repaired")
    assert (first["study"], first["started"], first["noise_floor"]) == ("embedded", NOON, 0.02)
    assert [r["random_weights"] for r in found] == [False, True, False]


def test_result_table_shows_the_latest_value_even_if_it_is_none(metrics):
    metrics.append([measured("a", "es", 40.0), measured("a", "em", 1.0)])
    metrics.append([measured("a", "es", None, time=NOON + DAY, error="it broke")])
    (row,) = rows(metrics, "FROM result_table")
    assert (row["es"], row["em"], row["error"], row["started"]) == (None, 1.0, "it broke", None)


def test_of_a_metric_under_its_old_and_its_new_name_the_latest_counts(metrics):
    metrics.append([measured("a", "speed_ratio", 2.0, metric_version=1)])
    metrics.append([measured("a", "line_speed_ratio", 3.0, time=NOON + DAY), measured("a", "speed_ratio", 4.0)])
    (row,) = rows(metrics, "FROM result_table")
    assert (row["line_speed_ratio"], row["speed_ratio"]) == (3.0, 4.0)


def test_missing_energy_is_no_failure(metrics):
    metrics.append([measured("a", "energy_j_per_sample", None, error="the host does not tell")])
    metrics.append([measured("a", "es", 40.0)])
    assert rows(metrics, "SELECT error FROM result_table") == [{"error": None}]


def test_versus_published_pairs_each_variant_with_every_published_row_of_it(metrics):
    metrics.append([run_row()])
    gzip = {"original": 400.0, "pruned": 100.0, "onnx": 300.0, "int8": 50.0}
    metrics.append([measured(variant, "disk_gzip_mb", value) for variant, value in gzip.items()])
    metrics.append([measured("pruned", "line_speed_ratio", 1.5), measured("pruned", "es_drop", 2.0)])
    found = rows(metrics, "FROM versus_published ORDER BY variant, published_host")
    assert [(r["variant"], r["published_host"]) for r in found] == [
        ("int8", None),
        ("onnx", "laptop"),
        ("original", "delftblue"),
        ("original", "laptop"),
        ("pruned", "delftblue"),
        ("pruned", "laptop"),
    ]
    pruned = found[4]
    assert pruned["disk_gzip_mb"] == 100.0
    assert pruned["published_disk_gzip_mb"] == pruned["published_disk_mb"] == 240.52
    assert pruned["published_params_nonzero_m"] == 49.77
    assert (pruned["disk_ratio"], pruned["line_speed_ratio"], pruned["es_drop"]) == (0.25, 1.5, 2.0)
    assert pruned["published_disk_ratio"] == pytest.approx(240.52 / 462.26)
    assert pruned["published_line_speed_ratio"] == pytest.approx(2.79 / 2.66)
    assert pruned["published_es_drop"] == pytest.approx(8.51)
    assert pruned["published_em_drop"] == pytest.approx(5.5)
    assert found[1]["published_line_speed_ratio"] == pytest.approx(1.59 / 0.80)
    assert all(value is None for name, value in found[0].items() if name.startswith("published_"))


def test_versus_published_takes_the_newest_run_of_each_study_host_and_variant(metrics):
    metrics.append([run_row(), run_row("r2", NOON + DAY), run_row("r3", NOON - DAY, study="paper")])
    metrics.append(
        [
            measured("original", "es", 1.0),
            measured("int8", "es", 2.0),
            measured("original", "es", 3.0, run="r2", time=NOON + DAY),
            measured("original", "es", 4.0, run="r3", study="paper", time=NOON - DAY),
        ],
    )
    found = rows(metrics, "SELECT DISTINCT study, variant, run, es FROM versus_published ORDER BY ALL")
    assert [tuple(r.values()) for r in found] == [
        ("embedded", "int8", "r1", 2.0),
        ("embedded", "original", "r2", 3.0),
        ("paper", "original", "r3", 4.0),
    ]


def test_history_compares_with_the_previous_run_of_the_same_definition(metrics):
    metrics.append([run_row(), run_row("r2", NOON + DAY, tainted=True)])
    metrics.append(
        [
            measured("a", "es", 40.0),
            measured("a", "es", None, run="r15", time=NOON + DAY / 2, error="it broke"),
            measured("a", "es", 30.0, run="r2", time=NOON + DAY),
            measured("a", "es", 99.0, run="r2", time=NOON + DAY, metric_version=2),
            measured("a", "es", 50.0, run="r3", time=NOON + 2 * DAY, host="other"),
            measured("a", "em", 0.0),
            measured("a", "em", 1.0, run="r2", time=NOON + DAY),
        ],
    )
    found = rows(metrics, "FROM history ORDER BY metric, host, metric_version, time")
    shown = [(r["metric"], r["run"], r["value"], r["previous_run"], r["change"], r["relative_change"]) for r in found]
    assert shown == [
        ("em", "r1", 0.0, None, None, None),
        ("em", "r2", 1.0, "r1", 1.0, None),
        ("es", "r1", 40.0, None, None, None),
        ("es", "r2", 30.0, "r1", -10.0, -0.25),
        ("es", "r2", 99.0, None, None, None),
        ("es", "r3", 50.0, None, None, None),
    ]
    assert [r["tainted"] for r in found] == [False, True, False, True, True, None]


def frontier(metrics):
    """The view's answer as {(run, host): variants on the frontier}, whatever else it selects."""
    with metrics.connect() as connection:
        sql = f"SELECT run, host, variant, on_frontier FROM ({(VIEW_FILES / 'pareto.sql').read_text()})"
        found = connection.execute(sql).fetchall()
    assert {type(on) for *_, on in found} <= {bool}
    places = {(run, host) for run, host, *_ in found}
    return {place: {v for run, host, v, on in found if on and (run, host) == place} for place in places}


def figures(variant, es, speed, disk, memory, **changes):
    values = {"es": es, "speed_ratio": speed, "disk_mb": disk, "memory_over_base_mb": memory}
    return [measured(variant, metric, value, **changes) for metric, value in values.items()]


def test_pareto_marks_what_nothing_is_better_than(metrics):
    metrics.append(
        [
            *figures("original", 50.0, 1.0, 20.0, 100.0),
            *figures("equal", 50.0, 1.0, 20.0, 100.0),
            *figures("worse", 49.0, 1.0, 20.0, 100.0),
            *figures("small", 40.0, 1.0, 10.0, 100.0),
            *figures("light", 40.0, 1.0, 20.0, 99.0),
            *figures("fast", 40.0, 2.0, 20.0, 100.0),
            *figures("failed", 60.0, 9.0, 1.0, 1.0),
            measured("failed", "em", None, error="it broke"),
            *figures("unsized", 60.0, 9.0, None, 1.0)[:2],
            *figures("random", 99.0, 1.5, 20.0, 100.0, random_weights=True),
            *figures("elsewhere", 1.0, 1.0, 99.0, 999.0, host="other"),
        ],
    )
    assert frontier(metrics) == {
        ("r1", "box"): {"original", "equal", "small", "light", "fast"},
        ("r1", "other"): {"elsewhere"},
    }


def test_pareto_of_random_weights_goes_by_the_other_figures(metrics):
    rows = [figures("original", None, 1.0, 20.0, 100.0), figures("int8", None, 2.0, 9.0, 100.0)]
    metrics.append([row.replace(random_weights=True) for each in rows for row in each if row.value])
    assert frontier(metrics) == {("r1", "box"): {"int8"}}


def test_pareto_agrees_with_the_recommendation(metrics):
    choose = random.Random(0)
    metrics.append([run_row(f"r{number}") for number in range(20)])
    for number in range(20):
        rows = [
            row
            for variant in "abcdef"
            for row in figures(
                variant,
                *(choose.choice([1.0, 2.0, 3.0]) for _ in range(4)),
                run=f"r{number}",
                random_weights=choose.random() < 0.2,
            )
        ]
        metrics.append(rows)
    found = frontier(metrics)
    for number in range(20):
        verdict = recommend(result_rows(metrics, run=f"r{number}"))
        # random_weights is of the variant; a row of another metric without it does not take it back
        assert found[f"r{number}", "box"] == {each.variant for each in verdict.candidates if each.on_frontier}
