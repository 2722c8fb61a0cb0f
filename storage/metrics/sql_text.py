"""SQL as text: its statements, and its words."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import duckdb


def statements(text: str) -> list[str]:
    """The statements between the semicolons, without what is only comments or blanks.

    Before each stand as many line breaks as in the text, so that an error names the line there.
    """
    content = text.encode()
    cuts = [-1, *_ends(text), len(content)]
    parts = [(cut + 1, content[cut + 1 : end]) for cut, end in pairwise(cuts)]
    return [
        "\n" * content[:start].count(b"\n") + part.decode() for start, part in parts if _says_something(part.decode())
    ]


def is_whole(text: str) -> bool:
    """Whether the last statement has its semicolon."""
    content = text.encode()
    ends = list(_ends(text))
    return bool(ends) and not _says_something(content[ends[-1] + 1 :].decode())


def _ends(text: str) -> Iterator[int]:
    """Where the semicolons are that end a statement, in bytes."""
    content = text.encode()
    for start, kind in duckdb.tokenize(text):
        if kind == duckdb.token_type.operator and content[start : start + 1] == b";":
            yield start


def _says_something(part: str) -> bool:
    return any(kind != duckdb.token_type.comment for _, kind in duckdb.tokenize(part))


def keywords() -> list[str]:
    """The words that DuckDB reserves, in capitals."""
    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT upper(keyword_name) FROM duckdb_keywords() WHERE keyword_category = 'reserved'"
        )
        return [word for (word,) in found.fetchall()]
