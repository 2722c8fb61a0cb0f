"""SQL as text: quoting, splitting into statements, and reserved words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import duckdb


def quote_text(value: str) -> str:
    """A text as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def quote_name(value: str) -> str:
    """A name as an SQL identifier."""
    return '"' + value.replace('"', '""') + '"'


def quote_list(values: Sequence[str]) -> str:
    """Texts as an SQL list."""
    return "[" + ", ".join(quote_text(value) for value in values) + "]"


def statements(text: str) -> list[str]:
    """Split a text at its semicolons, and leave out parts that are only comments or blanks.

    Each statement begins with as many line breaks as there are before it in the text, so that an error names its line.
    """
    content = text.encode()
    cuts = [-1, *_ends(text), len(content)]
    parts = [(cut + 1, content[cut + 1 : end]) for cut, end in pairwise(cuts)]
    return ["\n" * content[:start].count(b"\n") + part.decode() for start, part in parts if _has_tokens(part.decode())]


def is_complete(text: str) -> bool:
    """Whether the last statement ends with a semicolon."""
    content = text.encode()
    ends = list(_ends(text))
    return bool(ends) and not _has_tokens(content[ends[-1] + 1 :].decode())


def _ends(text: str) -> Iterator[int]:
    """The positions of the semicolons that end a statement, in bytes."""
    content = text.encode()
    for start, kind in duckdb.tokenize(text):
        if kind == duckdb.token_type.operator and content[start : start + 1] == b";":
            yield start


def _has_tokens(part: str) -> bool:
    return any(kind != duckdb.token_type.comment for _, kind in duckdb.tokenize(part))


def keywords() -> list[str]:
    """The words that DuckDB reserves, in capitals."""
    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT upper(keyword_name) FROM duckdb_keywords() WHERE keyword_category = 'reserved'"
        )
        return [word for (word,) in found.fetchall()]
