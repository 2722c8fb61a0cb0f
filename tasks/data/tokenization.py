"""Python's own tokens as Python 3.11 splits them, whatever Python runs this.

PY150 is mostly Python 2, and CodeXGLUE's preprocessing relies on a tokenizer that refuses little: until 3.11 `tokenize`
makes tokens of `0777`, of `10L`, of a lone `$` and of an f-string. From 3.12 on it refuses the first three and splits
the last one.

This is the algorithm and these are the patterns of Lib/tokenize.py of Python 3.11 (Copyright (c) 2001-2023 Python
Software Foundation, by Ka-Ping Yee and others, PSF License Version 2), changed in two ways: it is divided into
functions, and it leaves out positions, comments, indentation and the token of the file's end.
"""

from __future__ import annotations

import re
import tokenize
from collections.abc import Iterator
from io import BytesIO
from itertools import chain, repeat
from typing import Literal, NamedTuple

_PREFIX = r"(?:[bBrRuUfF]|[bBfF][rR]|[rR][bBfF])?"
_EXPONENT = r"[eE][-+]?[0-9](?:_?[0-9])*"
_POINT_FLOAT = rf"(?:[0-9](?:_?[0-9])*\.(?:[0-9](?:_?[0-9])*)?|\.[0-9](?:_?[0-9])*)(?:{_EXPONENT})?"
_FLOAT = rf"(?:{_POINT_FLOAT}|[0-9](?:_?[0-9])*{_EXPONENT})"
_INTEGER = (
    r"(?:0[xX](?:_?[0-9a-fA-F])+|0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|(?:0(?:_?0)*|[1-9](?:_?[0-9])*))"  # 0777 is 0, 777
)
_NUMBER = rf"(?:[0-9](?:_?[0-9])*[jJ]|{_FLOAT}[jJ]|{_FLOAT}|{_INTEGER})"
_OPERATORS = (
    *("!=", "%", "%=", "&", "&=", "(", ")", "*", "**", "**=", "*=", "+", "+=", ",", "-", "-=", "->", ".", "...", "/"),
    *("//", "//=", "/=", ":", ":=", ";", "<", "<<", "<<=", "<=", "=", "==", ">", ">=", ">>", ">>=", "@", "@=", "["),
    *("]", "^", "^=", "{", "|", "|=", "}", "~"),
)
# Longer ones first, else `==` would be two tokens.
_OPERATOR = "|".join(map(re.escape, sorted(_OPERATORS, reverse=True)))
_SINGLE_QUOTED = "|".join(
    rf"{_PREFIX}{quote}[^\n{quote}\\]*(?:\\.[^\n{quote}\\]*)*(?:{quote}|\\\r?\n)" for quote in ("'", '"')
)
_TOKEN = re.compile(
    rf"[ \f\t]*(\\\r?\n|\Z|#[^\r\n]*|{_PREFIX}'''|{_PREFIX}\"\"\"|{_NUMBER}|\r?\n|{_OPERATOR}|{_SINGLE_QUOTED}|\w+)"
)
_OPENING = re.compile(rf"{_PREFIX}('''|\"\"\"|'|\")")
# What remains of a string after its opening quotes, to its end.
_REST = {
    "'": re.compile(r"[^'\\]*(?:\\.[^'\\]*)*'"),
    '"': re.compile(r'[^"\\]*(?:\\.[^"\\]*)*"'),
    "'''": re.compile(r"[^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*'''"),
    '"""': re.compile(r'[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*"""'),
}
_TAB = 8


class Token(NamedTuple):
    """A token: its kind, and its text as it is in the source."""

    kind: Literal["line end", "number", "string", "other"]
    text: str


def tokens_of(source: bytes) -> list[Token]:
    """The tokens of a file's bytes, without comments and indentation.

    Raises:
        SyntaxError: it names no encoding that exists, or (IndentationError) a line returns to no indentation before it.
        UnicodeDecodeError: it is not in the encoding that it names, or not in UTF-8.
        tokenize.TokenError: it ends within a string or a bracket.
    """
    reader = _Reader()
    for line in _lines(source):
        if not reader.read(line):
            break
    return reader.tokens


def _lines(source: bytes) -> Iterator[str]:
    """The lines, each with its end, and empty ones for ever after."""
    readline = BytesIO(source).readline
    encoding, first = tokenize.detect_encoding(readline)
    encoding = "utf-8" if encoding == "utf-8-sig" else encoding  # the mark is not in `first` any more
    return (line.decode(encoding) for line in chain(first, iter(readline, b""), repeat(b"")))


class _Reader:
    """Collects tokens line by line; what it keeps besides is the state between two lines."""

    def __init__(self) -> None:
        self.tokens: list[Token] = []
        self._indents = [0]
        self._depth = 0  # of brackets; below 0 after a bracket that nothing opened
        self._continues = False  # the line before ended in a backslash
        self._string = ""  # the text so far of a string that has not ended
        self._quote = ""
        # Whether each line of the string must end in a backslash. 3.11 keeps this after a string that failed, so a
        # triple-quoted one that follows it can fail as well.
        self._is_one_line = False

    def read(self, line: str) -> bool:
        """Take the tokens of a line; False if it is the end of the file."""
        if self._string:
            position = self._continue_string(line)
        elif self._depth == 0 and not self._continues:
            position = len(line) - len(line.lstrip(" \t\f"))
            if position == len(line):
                return False
            if line[position] in "#\r\n":
                rest = line[position:]
                self._add("line end", rest[len(rest.rstrip("\r\n")) :] if rest[0] == "#" else rest)
                return True
            self._indent(line[:position])
        else:
            if not line:
                raise tokenize.TokenError("EOF in multi-line statement")
            position, self._continues = 0, False
        while position < len(line):
            position = self._scan(line, position)
        return True

    def _add(self, kind: Literal["line end", "number", "string", "other"], text: str) -> None:
        self.tokens.append(Token(kind, text))

    def _indent(self, blanks: str) -> None:
        column = 0
        for blank in blanks:
            column = 0 if blank == "\f" else column + 1 if blank == " " else (column // _TAB + 1) * _TAB
        if column > self._indents[-1]:
            self._indents.append(column)
        while column < self._indents[-1]:
            if column not in self._indents:
                raise IndentationError("unindent does not match any outer indentation level")
            self._indents.pop()

    def _continue_string(self, line: str) -> int:
        """Take a line of a string that began before; the position after the string."""
        if not line:
            raise tokenize.TokenError("EOF in multi-line string")
        text = self._string + line
        if rest := _REST[self._quote].match(line):
            self._add("string", self._string + rest[0])
            self._string, self._is_one_line = "", False
            return rest.end()
        if self._is_one_line and not line.endswith(("\\\n", "\\\r\n")):
            self._add("other", text)
            text = ""
        self._string = text
        return len(line)

    def _scan(self, line: str, position: int) -> int:
        """Take the token at a position; the position after it."""
        found = _TOKEN.match(line, position)
        if not found:
            self._add("other", line[position])
            return position + 1
        start, end = found.span(1)
        text = found[1]
        if opening := _OPENING.match(text):
            return self._begin_string(line, start, end, opening[1])
        if "0" <= text[:1] <= "9" or (text[:1] == "." and text not in (".", "...")):
            self._add("number", text)
        elif text[:1] in ("\r", "\n"):
            self._add("line end", text)
        elif text[:1] == "\\":
            self._continues = True
        elif text and text[0] != "#":
            self._depth += (text in ("(", "[", "{")) - (text in (")", "]", "}"))
            self._add("other", text)
        return end

    def _begin_string(self, line: str, start: int, end: int, quote: str) -> int:
        """Take a string, or its first line, whose first part is from `start` to `end`; the position after it."""
        is_triple = len(quote) == 3
        if is_triple and (rest := _REST[quote].match(line, end)):
            end = rest.end()
        elif is_triple or line[end - 1] == "\n":
            self._string, self._quote = line[start:], quote
            self._is_one_line = self._is_one_line or not is_triple
            return len(line)
        self._add("string", line[start:end])
        return end
