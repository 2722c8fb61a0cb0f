"""What a run has stored already is read through one connection, and so with one listing."""

import pytest

from slimline.storage.metrics.rows import HostRow
from slimline.storage.metrics.store import MetricsStore
from slimline.storage.queries.resume import failures, stored_rows
from tests.storage.factories import measured, prediction_row, round_row, run_row


@pytest.fixture
def connections(monkeypatch):
    """Every connection that is opened."""
    opened = []
    connect = MetricsStore.connect

    def counted(store):
        opened.append(connect(store))
        return opened[-1]

    monkeypatch.setattr(MetricsStore, "connect", counted)
    return opened


def test_nothing_is_stored_of_a_new_run(metrics, connections):
    found = stored_rows(metrics, "r1", "box")
    assert found == ([], frozenset(), False, False, False)
    assert not found.complete
    assert len(connections) == 1


def test_what_is_stored_of_a_run_on_a_host(metrics, connections):
    rounds = [round_row("original", started=None, samples_per_s=2.0), round_row("int8", 2, error="it broke")]
    metrics.append([*rounds, round_row("original", host="other"), round_row("original", run="r2")])
    metrics.append([prediction_row("int8", 1), prediction_row("int8", 2), prediction_row("onnx", 1, host="other")])
    metrics.append([HostRow(host="box", run="r1")])
    found = stored_rows(metrics, "r1", "box")
    assert sorted(found.rounds, key=lambda row: row.round) == rounds
    assert found[1:] == (frozenset({"int8"}), True, False, False)
    metrics.append([measured("int8", "es", 1.0)])
    assert not stored_rows(metrics, "r1", "box").complete
    metrics.append([run_row()])
    assert stored_rows(metrics, "r1", "box").complete
    assert stored_rows(metrics, "r1", "other")[2:] == (False, False, False)
    assert len(connections) == 4


def test_failures_are_by_host_and_variant_the_first_reason_of_the_results_before_that_of_a_round(metrics, connections):
    metrics.append([measured("int8", "es", None, error="no score"), measured("original", "es", 1.0)])
    metrics.append([round_row("int8", error="Traceback"), round_row("onnx", host="other", error="it broke")])
    metrics.append([round_row("slim", run="r2", error="another run")])
    assert failures(metrics, "r1") == {("box", "int8"): "no score", ("other", "onnx"): "it broke"}
    assert len(connections) == 1
