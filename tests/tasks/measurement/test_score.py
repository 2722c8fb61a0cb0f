import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimline.tasks.measurement.score import (
    ScoreError,
    edit_similarity,
    exact_match,
    restore_literals,
    score_files,
    score_pairs,
)
from tests.command import run_program

FROZEN = json.loads((Path(__file__).parent / "score_cases.json").read_text(encoding="utf-8"))
CASES = FROZEN["cases"]


@pytest.fixture
def files(tmp_path):
    def write(answers: str | bytes, predictions: str | bytes) -> tuple[Path, Path]:
        paths = tmp_path / "answers.json", tmp_path / "predictions.txt"
        for path, content in zip(paths, (answers, predictions), strict=True):
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return paths

    return write


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_scores_equal_the_evaluators_on_frozen_cases(case):
    score = score_pairs([(case["prediction"], case["target"])])
    assert (score.similarities, score.exact) == ((case["es"],), (case["em"],))


def test_means_equal_the_evaluators_to_two_decimals():
    score = score_pairs([(case["prediction"], case["target"]) for case in CASES])
    assert round(score.es, 2) == FROZEN["es_mean"]
    assert round(score.em, 2) == FROZEN["em_mean"]
    assert score.samples == len(CASES)


@pytest.mark.parametrize(
    ("code", "restored"),
    [
        ("x = <NUM_LIT> + <STR_LIT> + <CHAR_LIT>", "x = 0 +  + "),
        ("<STR_LIT:utf-8> <NUM_LIT:0.5> <CHAR_LIT:c>", "utf-8 0.5 c"),
        ("<STR_LIT:a>b>", "ab>"),
        ("<STR_LIT:two\nlines>", "two\nlines"),
        ("<STR_LIT:<NUM_LIT:2>> <NUM_LIT:2>", "2 2"),
        ("<STR_LIT:>", ""),
        ("<BYTES_LIT:x>", "<BYTES_LIT:x>"),
    ],
)
def test_restored_literals(code, restored):
    assert restore_literals(code) == restored


@pytest.mark.parametrize(
    ("prediction", "target", "expected"),
    [
        ("", "", 100),
        ("", "x", 0),
        ("x", "", 0),
        ("abc", "xyz", 0),
        ("aaab", "aaac", 75),
        ("a" * 5 + "b" * 3, "a" * 5 + "c" * 3, 62),  # 62.5 and 87.5: half goes to even
        ("a" * 7 + "b", "a" * 7 + "c", 88),
    ],
)
def test_edit_similarity(prediction, target, expected):
    assert edit_similarity(prediction, target) == expected


@given(st.text(max_size=30), st.text(max_size=30))
def test_edit_similarity_is_a_symmetric_percentage(one, other):
    similarity = edit_similarity(one, other)
    assert similarity == edit_similarity(other, one)
    assert 0 <= similarity <= 100
    assert edit_similarity(one, one) == 100


def test_exact_match_ignores_white_space_between_tokens_only():
    assert exact_match("a  = 1\n", "a = 1")
    assert not exact_match("a=1", "a = 1")


def test_only_the_prediction_is_stripped():
    assert score_pairs([("  a b ", "a b")]).es == 100
    assert score_pairs([("a b", " a b ")]).similarities == (75,)


def test_files_score_as_their_pairs(files):
    answers = "".join(json.dumps({"id": n, "gt": case["target"]}) + "\n" for n, case in enumerate(CASES))
    flat = [(case["prediction"].replace("\n", " "), case["target"]) for case in CASES]
    assert score_files(*files(answers, "".join(f"{prediction}\n" for prediction, _ in flat))) == score_pairs(flat)


def test_line_ends_are_those_of_text_files(files):
    paths = files('{"gt": "a\\fb"}\r\n{"gt": "c"}\r\n{"gt": "\\u2028d"}', "a\fb\r\nc\n\u2028d")
    assert score_files(*paths).exact == (True, True, True)


def test_a_blank_prediction_is_a_sample(files):
    score = score_files(*files('{"gt": "x"}\n{"gt": ""}\n', "\n\n"))
    assert score.similarities == (0, 100) and score.blank == 1


@pytest.mark.parametrize(
    ("answers", "predictions", "message"),
    [
        ('{"gt": "a"}\n', "a\nb\n", r"predictions\.txt.*2.*answers\.json.*1"),
        ('{"gt": "a"}\n{"gt": \n', "a\nb\n", r"answers.json:2: not JSON"),
        ('{"gt": "a"}\n\n', "a\nb\n", r"answers.json:2: not JSON"),
        ('{"gold": "a"}\n', "a\n", r'answers\.json:1: .*"gt"'),
        ('["gt"]\n', "a\n", r'answers\.json:1: .*"gt"'),
        ('{"gt": null}\n', "a\n", r'answers\.json:1: .*"gt"'),
        ('{"gt": "a"}\n', b"fine\n\xe9t\xe9\n", r"predictions.txt:2: not UTF-8 \(.*0xe9\)"),
        (b"\xff\n", "a\n", r"answers.json:1: not UTF-8"),
        ("", "a\n", r"answers.json: the file is empty"),
        ('{"gt": ""}\n{"gt": " "}\n', "a\nb\n", r"answers.json: .*withheld"),
        ('{"gt": "a"}\n', "", r"predictions.txt: the file is empty"),
    ],
)
def test_refusals_name_the_place(files, answers, predictions, message):
    with pytest.raises(ScoreError, match=message):
        score_files(*files(answers, predictions))


def test_no_pairs_is_an_error():
    with pytest.raises(ScoreError, match="no samples"):
        score_pairs([])


def test_scoring_imports_nothing_heavy():
    program = Path(__file__).parents[1] / "programs" / "print_imports.py"
    imported = json.loads(run_program(program, "slimline.tasks.measurement.score").stdout)
    assert not set(imported) & {"numpy", "scipy", "pydantic", "torch"}
