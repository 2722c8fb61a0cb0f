"""The metrics' definitions: whatever is measured has one, and every column of a view has its meaning."""

from slimline.storage.metrics.catalog import relations
from slimline.storage.metrics.connection import VIEWS, connect
from slimline.storage.metrics.metric import METRICS, TABLE_METRICS, WIDE_METRICS
from slimline.storage.queries.results import PUBLISHED_METRICS

OF_THE_RUN = [
    *("study", "run", "host", "variant", "first_measured", "first_written", "label", "random_weights", "artifact"),
    *("error", "started", "baseline", "control", "noise_floor", "tainted", "samples", "rounds"),
]


def test_a_definition_has_everything():
    for name, metric in METRICS.items():
        assert metric.name == name and metric.unit and metric.doc.endswith(".")
    assert set(TABLE_METRICS) < set(WIDE_METRICS) < set(METRICS)
    assert set(PUBLISHED_METRICS) < set(TABLE_METRICS)


def test_the_result_table_has_every_wide_metric_with_its_interval():
    with connect({}) as connection:
        found = [name for name, *_ in connection.execute("DESCRIBE result_table").fetchall()]
    metrics = [f"{metric}{end}" for metric in WIDE_METRICS for end in ("", "_lo", "_hi")]
    assert [name for name in found if name not in OF_THE_RUN] == metrics
    assert sorted(found) == sorted([*OF_THE_RUN, *metrics])


def test_every_column_of_every_table_and_view_is_described():
    found = {relation.name: relation for relation in relations()}
    assert found.keys() >= set(VIEWS)
    assert [(name, each) for name, relation in found.items() for each in relation.columns if not each.doc] == []
    assert all(relation.doc for relation in found.values())
