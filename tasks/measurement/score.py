"""Exact match and edit similarity, as CodeXGLUE's evaluator of line-level code completion computes them.

Source: github.com/microsoft/CodeXGLUE, Code-Code/CodeCompletion-line/evaluator/evaluator.py. It scores with
`fuzzywuzzy.fuzz.ratio`, whose value depends on whether python-Levenshtein is installed; here it is the value *with* it,
as in CodeXGLUE's own environment. The module imports little, so that `slimline score` starts fast.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rapidfuzz.distance import Indel

_PLACEHOLDERS = {"<NUM_LIT>": "0", "<STR_LIT>": "", "<CHAR_LIT>": ""}
_LITERAL = re.compile(r"<(?:STR|NUM|CHAR)_LIT:(.*?)>", re.DOTALL)


class ScoreError(ValueError):
    """Files or pairs that cannot be scored; the message names the file and the line, or the numbers that differ."""


@dataclass(frozen=True)
class Score:
    """Scores of a set of completions.

    Attributes:
        es: Mean edit similarity, 0 to 100.
        em: Exact matches in percent.
        samples: Number of completions.
        similarities: Edit similarity of each completion, 0 to 100.
        exact: Whether each completion is an exact match.
        blank: Samples whose target is empty, as where a data set withholds it.
        lines: The completions, without white space around them.
    """

    es: float
    em: float
    samples: int
    similarities: tuple[int, ...]
    exact: tuple[bool, ...]
    blank: int
    lines: tuple[str, ...]


def restore_literals(code: str) -> str:
    """Replace PY150's placeholders by literals, exactly as the evaluator's `post_process` does.

    Its special cases are part of the metric: a literal ends at its first ">", all its occurrences are replaced at once,
    and a replacement that completes another placeholder can be replaced again.
    """
    for placeholder, value in _PLACEHOLDERS.items():
        code = code.replace(placeholder, value)
    for literal in _LITERAL.finditer(code):
        code = code.replace(literal[0], literal[1])
    return code


def edit_similarity(prediction: str, target: str) -> int:
    """Similarity in whole percent, as `fuzz.ratio` of fuzzywuzzy 0.18 with python-Levenshtein.

    Equal strings, also empty ones, give 100; one empty string gives 0; otherwise it is the normalised insert/delete
    (Indel) similarity, rounded half to even as by Python's `round`.
    """
    if prediction == target:
        return 100
    if not prediction or not target:
        return 0
    return round(100 * Indel.normalized_similarity(prediction, target))


def exact_match(prediction: str, target: str) -> bool:
    """Whether both have the same tokens when split at white space."""
    return prediction.split() == target.split()


def score_pairs(pairs: Sequence[tuple[str, str]]) -> Score:
    """Score (prediction, target) pairs as the evaluator does.

    The prediction is stripped, the target is not; then literals are restored in both.

    Raises:
        ScoreError: there are no pairs.
    """
    if not pairs:
        raise ScoreError("there is nothing to score: no samples")
    restored = [(restore_literals(prediction.strip()), restore_literals(target)) for prediction, target in pairs]
    similarities = tuple(edit_similarity(*pair) for pair in restored)
    exact = tuple(exact_match(*pair) for pair in restored)
    count = len(restored)
    blank = sum(not target.strip() for _, target in pairs)
    lines = tuple(prediction.strip() for prediction, _ in pairs)
    return Score(sum(similarities) / count, 100 * sum(exact) / count, count, similarities, exact, blank, lines)


def score_files(answers: Path, predictions: Path) -> Score:
    """Score a file of predictions against a file of answers.

    Args:
        answers: JSON lines, each an object with a string "gt".
        predictions: Text with one prediction per line.

    Raises:
        ScoreError: a file is empty or not UTF-8, an answer is not JSON or has no "gt", all are empty, or the numbers of
            lines differ.
        OSError: a file cannot be read.
    """
    targets = [_target(answers, number, line) for number, line in enumerate(_lines(answers), start=1)]
    if not any(target.strip() for target in targets):
        raise ScoreError(f'{answers}: every "gt" is empty: the answers are withheld, and nothing can be scored')
    predicted = _lines(predictions)
    if len(predicted) != len(targets):
        raise ScoreError(
            f"{predictions} has {len(predicted)} lines, {answers} has {len(targets)}: expected one prediction an answer"
        )
    return score_pairs(list(zip(predicted, targets, strict=True)))


def _lines(path: Path) -> list[str]:
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ScoreError(f"{path}:{line}: not UTF-8 ({error.reason}, byte 0x{raw[error.start]:02x})") from None
    # These are the line ends of a text file; str.splitlines would also split at a form feed inside code.
    lines = io.StringIO(text, newline=None).readlines()
    if not lines:
        raise ScoreError(f"{path}: the file is empty")
    return lines


def _target(path: Path, number: int, line: str) -> str:
    try:
        answer = json.loads(line)
    except json.JSONDecodeError as error:
        raise ScoreError(f"{path}:{number}: not JSON ({error.msg})") from None
    target = answer.get("gt") if isinstance(answer, dict) else None
    if not isinstance(target, str):
        raise ScoreError(f'{path}:{number}: expected an object with a string "gt"')
    return target
