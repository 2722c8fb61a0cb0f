"""The result table as text, Markdown, CSV, JSON, HTML or LaTeX."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from slimline.dashboards.reports.result_table import html, latex, markdown, plain_text, sheets
from slimline.dashboards.reports.text_tables import csv_text
from slimline.storage.queries.results import PUBLISHED_METRICS, ResultRow


def render(rows: Sequence[ResultRow], format: str) -> str:  # noqa: A002 - what the command line calls it
    """The result table of some rows as text, md, csv, json, html or latex, ending in a line break.

    Raises:
        ValueError: the format is not one of these.
    """
    if format not in _FORMATS:
        raise ValueError(f"unknown format {format!r}; allowed: {', '.join(_FORMATS)}")
    return _FORMATS[format](rows)


def _json(rows: Sequence[ResultRow]) -> str:
    return json.dumps([row.flat() for row in rows], indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _csv(rows: Sequence[ResultRow]) -> str:
    cells = [_csv_cells(row) for row in rows]
    head = list(dict.fromkeys(name for row in cells for name in row))
    return csv_text(head, [[row.get(name) for name in head] for row in cells])


def _csv_cells(row: ResultRow) -> dict[str, object]:
    """The row's cells by column: the published figures of each host in columns of their own."""
    cells = {name: value for name, value in row.flat().items() if name != "published"}
    for published in row.published:
        cells |= {f"published_{published.host}_{name}": published.figures[name] for name in PUBLISHED_METRICS}
    return cells


_FORMATS: dict[str, Callable[[Sequence[ResultRow]], str]] = {
    "text": lambda rows: "\n".join(plain_text(sheet) for sheet in sheets(rows)),
    "md": lambda rows: "\n".join(markdown(sheet) for sheet in sheets(rows)),
    "csv": _csv,
    "json": _json,
    "html": lambda rows: "\n".join(html(sheet) for sheet in sheets(rows)),
    "latex": lambda rows: "\n".join(latex(sheet) for sheet in sheets(rows)),
}
