"""Python source to PY150 tokens, exactly as CodeXGLUE's preprocessing writes them on Python 3.11.

Specification: microsoft/CodeXGLUE, Code-Code/CodeCompletion-token/dataset/py150/preprocess.py. The 200 string and 30
number literals it keeps are data: literals.json beside this file.
"""

from __future__ import annotations

import json
import re
import tokenize
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

from slimline.tasks.data.tokenization import tokens_of

START, END, EOL = "<s>", "</s>", "<EOL>"
PAD, UNKNOWN = "<pad>", "<|UNKNOWN|>"
EMPTY = f"{START} {END}"

_QUOTES = ("'''", '"""', "'", '"')
_PREFIX = re.compile(r"^[a-zA-Z]+")


class Literals(NamedTuple):
    """The literals frequent enough in PY150 to be kept by name."""

    strings: frozenset[str]
    numbers: frozenset[str]


def _literal_lists() -> dict[str, list[str]]:
    loaded: dict[str, list[str]] = json.loads(files("slimline.tasks.data").joinpath("literals.json").read_text("utf8"))
    return loaded


@lru_cache(maxsize=1)
def literals() -> Literals:
    """The kept string and number literals; blanks and commas inside strings are spelled U+0020 and U+002C."""
    lists = _literal_lists()
    return Literals(frozenset(lists["str"]), frozenset(lists["num"]))


def literal_tokens() -> list[str]:
    """Every literal placeholder CodeXGLUE makes a special token of, in its order."""
    lists = _literal_lists()
    named = [f"<{kind}_LIT:{text}>" for key, kind in (("str", "STR"), ("num", "NUM")) for text in lists[key]]
    return ["<STR_LIT>", "<NUM_LIT>", "<CHAR_LIT>", *named]


def lex_string(token: str) -> str:
    """A string literal with its content replaced by a placeholder; prefix and quotes stay.

    >>> lex_string("b'utf-8'"), lex_string("'rare text'")
    ("b'<STR_LIT:utf-8>'", "'<STR_LIT>'")
    """
    found = _PREFIX.search(token)
    prefix = found[0] if found else ""
    body = _PREFIX.sub("", token)
    opening = next((quote for quote in _QUOTES if body.startswith(quote)), "")
    closing = opening if opening and body.endswith(opening) else ""
    content = body[len(opening) :]
    content = content[: -len(closing)] if closing else content
    content = content.replace(" ", "U+0020").replace(",", "U+002C")
    placeholder = f"<STR_LIT:{content}>" if content in literals().strings else "<STR_LIT>"
    return f"{prefix}{opening}{placeholder}{closing}"


def _lex_number(token: str) -> str:
    return f"<NUM_LIT:{token}>" if token in literals().numbers else "<NUM_LIT>"


def lex(source: str) -> list[str]:
    """PY150 tokens of Python source, without the surrounding `<s>` and `</s>`.

    Runs of line ends become one `<EOL>`, and there is none at either end; comments and indentation vanish.

    Raises:
        SyntaxError, tokenize.TokenError, IndentationError: the source does not tokenize.
        ValueError: nothing is left, as of an empty file or one of comments only.
    """
    tokens: list[str] = []
    for kind, raw in tokens_of(source.encode("utf8")):
        text = " ".join(raw.split())
        if kind == "line end":
            if tokens[-1:] != [EOL]:
                tokens.append(EOL)
        elif kind == "string":
            tokens.append(lex_string(text))
        elif kind == "number":
            tokens.append(_lex_number(text))
        elif text:
            tokens.append(text)
    return _without_outer_eol(tokens)


def _without_outer_eol(tokens: list[str]) -> list[str]:
    start = int(tokens[:1] == [EOL])
    stop = len(tokens) - int(tokens[-1:] == [EOL])
    if start >= stop:
        raise ValueError("no code: the file is empty or holds comments only")
    return tokens[start:stop]


def lex_line(source: str) -> str:
    """A file as one line of CodeXGLUE's token-level data: `<s> tokens </s>`.

    Raises:
        ValueError: the source does not tokenize, or holds no code; the message says why.
    """
    try:
        tokens = lex(source)
    except (SyntaxError, tokenize.TokenError) as error:
        raise ValueError(f"does not parse: {error.args[0]}") from error
    return " ".join([START, *tokens, END])
