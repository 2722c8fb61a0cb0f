"""The result table as text, Markdown, CSV, JSON, HTML or LaTeX."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence

from slimline.dashboards.reports.result_table import html, latex, markdown, plain_text, sheets
from slimline.storage.queries.results import FIGURES, Row


def render(rows: Sequence[Mapping[str, object]], format: str) -> str:  # noqa: A002 - what the command line calls it
    """The rows of `result_rows` as text, md, csv, json, html or latex, ending in a line break."""
    if format not in _FORMATS:
        raise ValueError(f"unknown format {format!r}; allowed: {', '.join(_FORMATS)}")
    return _FORMATS[format](rows)


def _json(rows: Sequence[Mapping[str, object]]) -> str:
    return json.dumps(list(rows), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _csv(rows: Sequence[Mapping[str, object]]) -> str:
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def _flat(row: Mapping[str, object]) -> Row:
    flat = {name: value for name, value in row.items() if name != "published"}
    published = row["published"]
    for figures in published if isinstance(published, list) else []:
        flat |= {f"published_{figures['host']}_{name}": figures[name] for name in FIGURES}
    return flat


_FORMATS: dict[str, Callable[[Sequence[Mapping[str, object]]], str]] = {
    "text": lambda rows: "\n".join(plain_text(sheet) for sheet in sheets(rows)),
    "md": lambda rows: "\n".join(markdown(sheet) for sheet in sheets(rows)),
    "csv": _csv,
    "json": _json,
    "html": lambda rows: "\n".join(html(sheet) for sheet in sheets(rows)),
    "latex": lambda rows: "\n".join(latex(sheet) for sheet in sheets(rows)),
}
