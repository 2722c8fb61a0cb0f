"""Text that is safe to print: on a terminal, in Markdown."""

from __future__ import annotations

import codecs
import io
import re
import sys

NONE = "–"  # noqa: RUF001 - the sign for "no figure"


def clean(value: object) -> str:
    """On one line, and without what a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in str(value)).strip()


def counted(count: int, noun: str) -> str:
    """A number of things, for people: 1 night, 2 nights."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def escaped_markdown(text: str) -> str:
    """As the same characters in a Markdown paragraph or table cell."""
    return re.sub(r"([\\`*_\[\]<>|#&~])", r"\\\1", text)


def print_in_any_encoding() -> None:
    """Let this process print what its terminal cannot: lines of tables as - | +, other characters as ?."""
    codecs.register_error("slimline", _as_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="slimline")


def _as_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_ascii, error.object[error.start : error.end])), error.end


def _ascii(character: str) -> str:
    if not "\u2500" <= character <= "\u257f":  # box drawing
        return "-" if character == NONE else "?"
    return {"─": "-", "━": "-", "│": "|", "┃": "|"}.get(character, "+")
