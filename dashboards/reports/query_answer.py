"""Answers to SQL, printed for a person or for a program."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from slimline.dashboards.reports.text_tables import align_columns, csv_text, markdown_table
from slimline.storage.metrics.parquet import parquet_bytes

if TYPE_CHECKING:
    import pyarrow as pa


def render_answer(answer: pa.Table, form: str) -> str:
    """A query's answer as text, md, csv or json, ending in a line break. JSON has null for NaN and infinity.

    Raises:
        ValueError: the format is not one of these.
    """
    if form not in _FORMATS:
        raise ValueError(f"format: {form!r}, allowed: {', '.join(_FORMATS)}")
    return _FORMATS[form](answer)


def parquet(answer: pa.Table) -> bytes:
    """A query's answer as a Parquet file.

    Raises:
        ValueError: a column has a type that Parquet does not have.
    """
    import pyarrow as pa

    try:
        return parquet_bytes(answer)
    except pa.ArrowException as error:
        raise ValueError(f"not for Parquet: {error}; cast it, for example to VARCHAR") from error


def _values(column: pa.ChunkedArray) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except (OverflowError, ValueError):  # a time or an interval out of the range of Python's
        return [_value(scalar) for scalar in column]
    return values


def _value(scalar: pa.Scalar) -> object:
    try:
        return scalar.as_py()
    except (OverflowError, ValueError):
        return f"{scalar.type} out of range"


def _rows(answer: pa.Table) -> list[list[str]]:
    columns = [["" if value is None else _cell_text(value) for value in _values(column)] for column in answer.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def _cell_text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 10_000 else str(value)


def _text(answer: pa.Table) -> str:
    head, *lines = align_columns([[_one_line(cell) for cell in row] for row in (answer.column_names, *_rows(answer))])
    rule = "─" * max(cell_len(line) for line in (head, *lines))
    return "\n".join([head, rule, *lines]) + "\n"


def _one_line(text: str) -> str:
    """Without control characters; a line break becomes a blank."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else " " for character in text)


def _markdown(answer: pa.Table) -> str:
    head, *lines = [
        [cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in (answer.column_names, *_rows(answer))
    ]
    return markdown_table(head, lines) + "\n"


def _csv(answer: pa.Table) -> str:
    return csv_text(answer.column_names, zip(*map(_values, answer.columns), strict=True))


def _json(answer: pa.Table) -> str:
    rows = zip(*map(_values, answer.columns), strict=True)
    found = [dict(zip(answer.column_names, map(_plain, row), strict=True)) for row in rows]
    return json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"


def _plain(value: object) -> object:
    """As JSON can hold it: NaN and infinity become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


_FORMATS: dict[str, Callable[[pa.Table], str]] = {"text": _text, "md": _markdown, "csv": _csv, "json": _json}
