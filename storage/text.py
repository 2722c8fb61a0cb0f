"""Text that is safe to print: on a terminal, in Markdown."""

from __future__ import annotations

import re

NONE = "–"  # noqa: RUF001 - the sign for "no figure"


def clean(value: object) -> str:
    """On one line, and without what a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in str(value)).strip()


def escaped_markdown(text: str) -> str:
    """As the same characters in a Markdown paragraph or table cell."""
    return re.sub(r"([\\`*_\[\]<>|#&~])", r"\\\1", text)
