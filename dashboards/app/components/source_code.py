"""PY150's tokens as source code."""

from __future__ import annotations

import re

_LITERAL = re.compile(r"<(?:STR|NUM|CHAR)_LIT(?::(?P<value>[^>]*))?>")
_EMPTY_NUMBER = "<NUM_LIT>"


def as_source(tokens: str | None) -> str:
    """A line of PY150 tokens as lines of code; literals without a value become empty strings, or 0."""
    text = (tokens or "").replace("<s>", "").replace("</s>", "").replace(_EMPTY_NUMBER, "0")
    lines = _LITERAL.sub(lambda found: found["value"] or "", text).split("<EOL>")
    return "\n".join(line.strip() for line in lines).strip("\n")
