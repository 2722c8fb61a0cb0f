"""Predictions of two variants, or of two runs, sample by sample."""

from slimline.storage.queries.predictions import (
    Completion,
    PredictionSet,
    other_runs,
    prediction_pairs,
    prediction_sets,
)
from tests.storage.factories import prediction_row, run_row


def completion(variant, sample, es, run="r1", **values):
    given = {"target": "x", "prediction": f"{variant}{es}", "es": es, "em": es == 100}
    return prediction_row(variant, sample, run, **(given | values))


def test_pairs_are_the_samples_in_common_the_most_different_first(metrics):
    metrics.append([run_row("r1")])
    metrics.append([completion("original", 1, 100), completion("original", 2, 100), completion("original", 3, 100)])
    metrics.append([completion("int8", 1, 90), completion("int8", 2, 40), completion("int8", 3, 0, target="other")])
    metrics.append([completion("int8", 1, 10, "r2"), completion("int8", 1, 10, "r3", host="laptop")])
    with metrics.connect() as connection:
        original, int8 = prediction_sets(connection, "r1")
        assert original == PredictionSet(run="r1", variant="original", host="box")
        first, second = prediction_pairs(connection, original, int8)
        assert other_runs(connection, "box", "r1") == ["r2"]
    assert (first.sample, second.sample) == (2, 1)
    assert first.a == Completion(prediction="original100", es=100, em=True) and first.b.es == 40
    assert first.differs
