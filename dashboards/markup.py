"""Result tables as HTML that says what stands out: the best of each column in bold, what surely differs starred."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from storage.sheets import NONE, QUALITY, Line, Sheet, sheets

Rows = Sequence[Mapping[str, Any]]

MORE_IS_BETTER = ("samples_per_s", "speed_ratio", "es", "em", "greedy_agreement", "matmuls")
LESS_IS_BETTER = ("disk_mb", "disk_gzip_mb", "memory_mb", "memory_over_base_mb", "params_m", "params_nonzero_m")
SURE_BELOW = 0.05  # of McNemar's p value
NOTE = (
    "bold: the best of its column; *: surely differs from the baseline (the 95 % interval of the paired speed ratio "
    "leaves out 1, that of the paired ES drop 0, or McNemar's p for EM is below 0.05)"
)
STYLE = """
<style>
.sheet { overflow-x: auto; margin-bottom: 1.5rem; }
.sheet table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
.sheet table { font-size: 0.9rem; line-height: 1.25; }
.sheet caption { text-align: left; padding: 0.25rem 0; font-weight: 600; }
.sheet th, .sheet td { padding: 0.3rem 0.6rem; border-bottom: 1px solid rgba(128, 128, 128, 0.35); text-align: right; }
.sheet th:first-child, .sheet tfoot td { text-align: left; white-space: nowrap; }
.sheet small { font-size: 0.8em; }
.sheet td { white-space: nowrap; font-weight: 400; }
.sheet td strong { font-weight: 800; }
.sheet tbody th { font-weight: 500; }
.sheet tr.published th { padding-left: 2rem; }
.sheet tr.published > * { font-style: italic; border-bottom-style: dashed; }
.sheet tfoot td { border: 0; white-space: normal; font-size: 0.8rem; }
</style>
"""


def marked_tables(rows: Rows) -> str:
    """The sheets of these rows, one a host; rows as `storage.tables.result_rows` gives them."""
    hosts = dict.fromkeys(row["host"] for row in rows)
    of_hosts = [[row for row in rows if row["host"] == host] for host in hosts]
    return STYLE + "\n".join(_table(sheet, ours) for sheet, ours in zip(sheets(rows), of_hosts, strict=True))


def _table(sheet: Sheet, rows: Rows) -> str:
    # A region that can be scrolled has to be reachable with the keyboard, and then needs a name.
    region = f'<div class="sheet" role="region" tabindex="0" aria-label="{escape(sheet.caption)}">'
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("model", *(c.heading for c in sheet.columns)))
    body = "\n".join(_lines(sheet, rows))
    notes = "".join(
        f'<tr><td colspan="{len(sheet.columns) + 1}">{escape(note)}</td></tr>' for note in (NOTE, *sheet.notes)
    )
    parts = [f"<caption>{escape(sheet.caption)}</caption>", f"<thead><tr>{head}</tr></thead>"]
    return "\n".join([region, "<table>", *parts, f"<tbody>{body}</tbody><tfoot>{notes}</tfoot>", "</table></div>"])


def _lines(sheet: Sheet, rows: Rows) -> list[str]:
    keys = [column.key for column in sheet.columns]
    best = {key: _best(rows, key) for key in keys}
    found, remaining = [], iter(rows)
    for line in sheet.lines:
        if line.published:
            found.append(_line(line, line.cells))
        else:
            row = next(remaining)
            cells = [_cell(text, row, key, best[key]) for text, key in zip(line.cells, keys, strict=True)]
            found.append(_line(line, cells))
    return found


def _line(line: Line, cells: Sequence[str]) -> str:
    start = '<tr class="published">' if line.published else "<tr>"
    return f'{start}<th scope="row">{escape(line.name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _cell(text: str, row: Mapping[str, Any], key: str, best: float | None) -> str:
    if text == NONE:
        return NONE
    value, _, interval = text.partition(" ")
    starred = escape(value) + ("*" if surely_differs(row, key) else "")
    shown = f"<strong>{starred}</strong>" if row[key] == best and not row["error"] else starred
    interval = escape(interval or _quality_interval(row, key))
    return f"{shown}<br><small>{interval}</small>" if interval else shown


def _quality_interval(row: Mapping[str, Any], key: str) -> str:
    """That of ES or EM, which the plain table has no room for."""
    if key not in QUALITY or row[f"{key}_lo"] is None or row[f"{key}_hi"] is None:
        return ""
    return f"[{row[f'{key}_lo']:.2f}, {row[f'{key}_hi']:.2f}]"


def _best(rows: Rows, key: str) -> float | None:
    """The best figure of a column, if it has several: of one there is none better, of equals neither."""
    shown = [row for row in rows if not row["error"] and not (key in QUALITY and row["random_weights"])]
    figures = {float(row[key]) for row in shown if row[key] is not None}
    better: Callable[..., float] | None = max if key in MORE_IS_BETTER else min if key in LESS_IS_BETTER else None
    return better(figures) if better and len(figures) > 1 else None


def surely_differs(row: Mapping[str, Any], key: str) -> bool:
    """Whether a variant's speed, ES or EM is told apart from its baseline's; see NOTE."""
    if row["variant"] == row["baseline"]:
        return False
    if key == "em":
        p_value = row["em_p_value"]
        return p_value is not None and float(p_value) < SURE_BELOW
    paired, none = {"speed_ratio": ("speed_ratio", 1.0), "es": ("es_drop", 0.0)}.get(key, (None, 0.0))
    if paired is None or row[f"{paired}_lo"] is None or row[f"{paired}_hi"] is None:
        return False
    return not row[f"{paired}_lo"] <= none <= row[f"{paired}_hi"]
