"""Predictions carry their scores, and the scores of all of them are what the evaluator says of the same lines."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimline.tasks.data.parquet import write_rows
from slimline.tasks.data.samples import Sample
from slimline.tasks.measurement.completions import Prediction, complete_samples, read_predictions, score_of
from slimline.tasks.measurement.score import score_pairs
from slimline.tasks.specs import Decoding, Engine, ScoreStep
from tests.tasks.bpe_models import write_bpe_model

LINES = st.tuples(*[st.text("ab <>_LITSNUR:\"'1 ", max_size=12)] * 2)


def predict(lines: list[tuple[str, str]]) -> list[Prediction]:
    """Each line scored by itself."""
    scores = [score_pairs([line]) for line in lines]
    return [
        Prediction(number, prediction, target, score.similarities[0], score.exact[0])
        for number, ((prediction, target), score) in enumerate(zip(lines, scores, strict=True))
    ]


@given(st.lists(LINES, min_size=1, max_size=8))
def test_the_score_of_predictions_is_that_of_their_lines(lines: list[tuple[str, str]]) -> None:
    assert score_of(predict(lines)) == score_pairs(lines)


def test_literals_count_as_what_they_stand_for() -> None:
    lines = [("x = <NUM_LIT:1>", "x = 1"), ("x = <STR_LIT>", "x = "), (" y ", "y"), ("", "z")]
    score = score_of(predict(lines))
    assert (score, score.exact) == (score_pairs(lines), (True, True, True, False))


def test_completions_of_a_model_come_back_with_the_evaluators_scores(tmp_path: Path) -> None:
    model = write_bpe_model(tmp_path / "model")
    (tmp_path / "slice").mkdir()
    samples = [Sample(7, "a.py", "<s> import os <EOL>", "x = 1"), Sample(3, "a.py", "<s> x", "= 2")]
    write_rows(tmp_path / "slice" / "samples.parquet", samples)
    spec = ScoreStep(engine=Engine(name="torch"), decoding=Decoding(max_new_tokens=3), batch_size=2, threads=1)
    notes = complete_samples(spec, model, tmp_path / "slice", tmp_path)
    predictions = read_predictions(tmp_path)
    assert [(each.sample, each.target) for each in predictions] == [(7, "x = 1"), (3, "= 2")]
    score = score_pairs([(each.prediction, each.target) for each in predictions])
    assert score_of(predictions) == score
    assert notes == {"es": pytest.approx(score.es), "em": pytest.approx(score.em), "samples": 2}
