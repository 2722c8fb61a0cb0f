"""Exact match and edit similarity, as CodeXGLUE's evaluator of line-level code completion computes them.

Source: github.com/microsoft/CodeXGLUE, Code-Code/CodeCompletion-line/evaluator/evaluator.py. It scores with
`fuzzywuzzy.fuzz.ratio`, whose value depends on whether python-Levenshtein is installed; here it is *with* it, the way
CodeXGLUE's own environment has it. Imports stay light: the command `slimline score` starts in a blink.
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
    """Files or pairs that cannot be scored; the message names the file and the line, or the two numbers that differ."""


@dataclass(frozen=True)
class Score:
    """Scores of a set of completions: `es` and `em` in percent (0 to 100), and each sample's own, in order."""

    es: float
    em: float
    samples: int
    similarities: tuple[int, ...]
    exact: tuple[bool, ...]


def restore_literals(code: str) -> str:
    """Put PY150's abstracted literals back, exactly as the evaluator's `post_process` does.

    Its quirks are part of the metric: a literal ends at its first ">", every occurrence of one is replaced at once,
    and a replacement that happens to complete another placeholder can be replaced in its turn.
    """
    for placeholder, value in _PLACEHOLDERS.items():
        code = code.replace(placeholder, value)
    for literal in _LITERAL.finditer(code):
        code = code.replace(literal[0], literal[1])
    return code


def edit_similarity(prediction: str, target: str) -> int:
    """Similarity in whole percent, as `fuzz.ratio` of fuzzywuzzy 0.18 with python-Levenshtein.

    Equal strings, empty ones included, give 100; one empty string gives 0; anything else is the normalised
    insert/delete (Indel) similarity, rounded half to even as Python's `round` does.
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

    The prediction is stripped, the target is not, then literals are restored in both. Raises ScoreError if there are
    no pairs.
    """
    if not pairs:
        raise ScoreError("there is nothing to score: no samples")
    restored = [(restore_literals(prediction.strip()), restore_literals(target)) for prediction, target in pairs]
    similarities = tuple(edit_similarity(*pair) for pair in restored)
    exact = tuple(exact_match(*pair) for pair in restored)
    count = len(restored)
    return Score(sum(similarities) / count, 100 * sum(exact) / count, count, similarities, exact)


def score_files(answers: Path, predictions: Path) -> Score:
    """Score a predictions file (text, one a line) against an answers file (JSON lines with a string "gt").

    Raises ScoreError for an empty file, text that is not UTF-8, a line that is not JSON or lacks "gt", and different
    numbers of lines; OSError if a file cannot be read.
    """
    targets = [_target(answers, number, line) for number, line in enumerate(_lines(answers), start=1)]
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
    # Only the line ends a text file has in Python: str.splitlines would also cut at a form feed inside code.
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
