"""Answers to SQL, printed for a person or for a program."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import pyarrow as pa

WIDEST = 100_000


def render_answer(answer: pa.Table, form: str) -> str:
    """A query's answer as text, md, csv or json, ending in a line break."""
    if form not in _FORMATS:
        raise ValueError(f"format: {form!r}, allowed: {', '.join(_FORMATS)}")
    return _FORMATS[form](answer)


def _rows(answer: pa.Table) -> list[list[str]]:
    columns = [["" if value is None else _shown(value) for value in column.to_pylist()] for column in answer.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 10_000 else str(value)


def _text(answer: pa.Table) -> str:
    table = Table(*answer.column_names, box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in _rows(answer):
        table.add_row(*row)
    out = io.StringIO()
    console = Console(file=out, width=WIDEST, highlight=False, markup=False, emoji=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").split("\n")) + "\n"


def _markdown(answer: pa.Table) -> str:
    lines = [list(answer.column_names), ["---"] * answer.num_columns, *_rows(answer)]
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def _csv(answer: pa.Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(answer.column_names)
    writer.writerows(zip(*(column.to_pylist() for column in answer.columns), strict=True))
    return out.getvalue()


def _json(answer: pa.Table) -> str:
    return json.dumps(answer.to_pylist(), indent=2, ensure_ascii=False, default=str) + "\n"


_FORMATS: dict[str, Callable[[pa.Table], str]] = {"text": _text, "md": _markdown, "csv": _csv, "json": _json}
