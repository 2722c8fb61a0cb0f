"""PY150 lexing against lines that CodeXGLUE's own preprocessing wrote (Python 3.11), and against 3.11's tokenizer."""

import io
import json
import sys
import token
import tokenize
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimline.tasks.data.lexer import EMPTY, EOL, lex_line, lex_string, literal_tokens, literals
from slimline.tasks.data.tokenization import tokens_of

CASES = json.loads((Path(__file__).parent / "py150_cases.json").read_text("utf8"))
# What lexing on 3.11's own tokenizer made of f-strings, of Python 2, of what does not parse, and of random fragments.
CASES_OF_311 = json.loads((Path(__file__).parent / "py311_cases.json").read_text("utf8"))
KINDS = {token.NEWLINE: "line end", token.NL: "line end", token.NUMBER: "number", token.STRING: "string"}
SILENT = {token.COMMENT, token.INDENT, token.DEDENT, token.ENCODING, token.ENDMARKER}
FRAGMENTS = [
    *("x", "é", "²", "1", "0777", "10L", "1e5", "1.5e-3j", "1__0", ".", "...", "'", '"', "'''", '"""', "\\", "\\\n"),
    *("\n", "\r\n", "\r", "\t", " ", "    ", "\f", "# c", "# coding: latin-1\n", "# coding: utf-16\n", "(", ")", "{"),
    *("}", "f'", 'rb"', "f'{a!r:>{w}}'", "f'''{\n1}'''", "ur'", "$", "?", "!", "`", "<>", ":=", "**=", "\0", "\ufeff"),
    *("\u2028", "if x:", "\n  ", "\n\t", "\n        ", "'utf-8'", "\\\r\n"),
]


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


@pytest.mark.parametrize("case", CASES_OF_311, ids=range(len(CASES_OF_311)))
def test_every_python_lexes_as_311(case: dict[str, str]) -> None:
    try:
        found = {"line": lex_line(case["source"])}
    except ValueError as error:
        found = {"error": str(error)}
    assert {"source": case["source"], **found} == case


def outcome(split, source: bytes):
    try:
        return split(source)
    except (SyntaxError, tokenize.TokenError, UnicodeDecodeError) as error:
        return type(error), error.args[0]


def tokens_of_311(source: bytes) -> list[tuple[str, str]]:
    """What the standard library finds, without the line end that it adds to a file that has none at its end."""
    tokens = tokenize.tokenize(io.BytesIO(source).readline)
    return [
        (KINDS.get(kind, "other"), text)
        for kind, text, *_ in tokens
        if kind not in SILENT and (kind, text) != (token.NEWLINE, "")
    ]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="later tokenizers are another algorithm")
@settings(max_examples=400)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=20).map("".join))
def test_tokens_are_those_of_311(source: str) -> None:
    assert outcome(tokens_of, source.encode()) == outcome(tokens_of_311, source.encode())


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
