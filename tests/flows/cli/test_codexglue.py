"""`slimline score` and `slimline lex`: what they print, and what they refuse."""

import json
from pathlib import Path

import pytest

from slimline.tasks.data.lexer import lex_line
from tests.flows.cli.answer import HEAVY, Slimline


@pytest.fixture
def scored(tmp_path: Path) -> tuple[Path, Path]:
    """Four samples whose similarities are 100, 75, 0 and 100, and of which the first and the last match exactly."""
    answers, predictions = tmp_path / "answers.json", tmp_path / "predictions.txt"
    targets = ["x = 1", "aaac", "y", "z = <NUM_LIT:0>"]
    answers.write_text("".join(json.dumps({"input": "", "gt": target}) + "\n" for target in targets))
    predictions.write_text("  x = 1\naaab\n\nz = 0\n")
    return answers, predictions


def test_score_equals_what_is_computed_by_hand(slimline: Slimline, scored: tuple[Path, Path]) -> None:
    text = slimline("score", "--answers", scored[0], "--predictions", scored[1])
    assert (text.status, text.out, text.err) == (0, "Edit sim: 68.75, EM: 50.0 (4 samples)\n", "")
    assert not text.imported & HEAVY
    as_json = slimline("score", "--answers", scored[0], "--predictions", scored[1], "--json")
    assert json.loads(as_json.out) == {"es": 68.75, "em": 50.0, "samples": 4}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"gt": "x"}\n' * 3, "{answers} has 3"),
        ('{"gt": "x"}\n\nx\n\n', "{answers}:2: "),
        ('{"gt": "x"}\n{"gt": 3}\n{"gt": "x"}\n{"gt": "x"}\n', "{answers}:2: "),
        ('{"gt": ""}\n' * 4, "{answers}: "),
        (None, "{answers}: No such file or directory"),
    ],
)
def test_files_that_cannot_be_scored_are_refused(
    slimline: Slimline, scored: tuple[Path, Path], content: str | None, reason: str
) -> None:
    answers, predictions = scored
    answers.unlink()
    if content is not None:
        answers.write_text(content)
    answer = slimline("score", "--answers", answers, "--predictions", predictions)
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert reason.format(answers=answers) in answer.err


def test_answers_of_which_some_are_empty_are_scored_with_a_warning(
    slimline: Slimline, scored: tuple[Path, Path]
) -> None:
    scored[0].write_text('{"gt": ""}\n' * 3 + '{"gt": "z = 0"}\n')
    answer = slimline("score", "--answers", scored[0], "--predictions", scored[1])
    assert (answer.status, answer.out) == (0, "Edit sim: 50.0, EM: 50.0 (4 samples)\n")
    assert answer.err.startswith("warning: 3 of 4 answers are empty")


def test_lex_prints_a_line_a_file(slimline: Slimline, home: Path, tmp_path: Path) -> None:
    sources = {
        "good.py": b"import os\n\nx = 1  # note\n",
        "broken.py": b"def f(:\n  '''",
        "latin.py": b"x = '\xe9'",
        "empty.py": b"",
        "nul.py": b"x = 1\n\0",
        "declared.py": b"# -*- coding: latin-1 -*-\nx = '\xe9'",
        "marked.py": b"\xef\xbb\xbfimport os\n\nx = 1",
        "unknown.py": b"# coding: klingon\nx = 1",
    }
    for name, source in sources.items():
        (tmp_path / name).write_bytes(source)
    answer = slimline("lex", *(tmp_path / name for name in sources))
    assert answer.status == 0
    good = "<s> import os <EOL> x = <NUM_LIT:1> </s>"
    empty, declared = "<s> </s>", "<s> x = '<STR_LIT>' </s>"
    assert answer.out.splitlines() == [good, empty, empty, empty, empty, declared, good, empty]
    assert good == lex_line(sources["good.py"].decode())
    complaints = [line.partition(": ") for line in answer.err.splitlines()]
    assert [Path(path).name for path, _, _ in complaints] == [
        "broken.py",
        "latin.py",
        "empty.py",
        "nul.py",
        "unknown.py",
    ]
    expected = ("parse", "UTF-8", "no code", "NUL", "klingon")
    assert all(words in line for (_, _, line), words in zip(complaints, expected, strict=True))
    assert not answer.imported & HEAVY and not home.exists()


def test_lex_refuses_a_missing_file_before_it_prints(slimline: Slimline, tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text("x = 1\n")
    answer = slimline("lex", tmp_path / "good.py", tmp_path / "none.py")
    assert (answer.status, answer.out) == (2, "")
    assert answer.err == f"error: FILE: {tmp_path / 'none.py'} is not a file\n"
