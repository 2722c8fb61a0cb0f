"""PY150 lexing against lines that CodeXGLUE's own preprocessing wrote (Python 3.11)."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimline.tasks.data.lexer import EMPTY, EOL, lex_line, lex_string, literal_tokens, literals

CASES = json.loads((Path(__file__).parent / "py150_cases.json").read_text("utf8"))


def lexed_file(path: Path) -> str:
    try:
        return lex_line(path.read_text("utf8"))
    except ValueError:
        return EMPTY


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_equals_codexglue(case: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "case.py"
    path.write_bytes(case["source"].encode())
    assert lexed_file(path) == case["line"]


def test_literal_lists_are_codexglues() -> None:
    assert (len(literals().strings), len(literals().numbers)) == (200, 30)
    assert len(literal_tokens()) == 233


@given(st.text(st.characters(exclude_characters="'\\\n\r\0", exclude_categories=["Cs"])))
def test_a_string_keeps_its_quotes_and_never_its_rare_content(content: str) -> None:
    lexed = lex_string(f"'{content}'")
    assert lexed.startswith("'<STR_LIT") and lexed.endswith(">'")
    spelled = content.replace(" ", "U+0020").replace(",", "U+002C")
    assert (lexed == "'<STR_LIT>'") == (spelled not in literals().strings)


@given(st.lists(st.sampled_from(["x = 1", "", "# note", "if x:\n    y()", "s = 'a b'"]), max_size=8))
def test_line_ends_never_repeat_nor_stand_outside(lines: list[str]) -> None:
    try:
        tokens = lex_line("\n".join(lines)).split(" ")
    except ValueError:
        return
    assert tokens[1] != EOL and tokens[-2] != EOL
    assert all(pair != (EOL, EOL) for pair in pairwise(tokens))
