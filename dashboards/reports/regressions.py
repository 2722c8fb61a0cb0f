"""Verdicts on paper: as text, Markdown or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from slimline.dashboards.reports.query_answer import render_answer
from slimline.storage.metrics.store import MetricsStore
from slimline.storage.text import clean, escaped_markdown

Row = Mapping[str, Any]

_ORDER = ("regression", "failed", "suspicious-unconfirmed", "improvement", "not-comparable", "new", "ok")
_LISTED = "state, study, host, variant, metric, value, reference, ratio, change_point, change_time, reason, suspects"
_HEAD = ("verdict", "host", "variant", "metric", "value", "reference", "ratio", "band", "nights", "why")


def render_verdicts(rows: Sequence[Row], floors: Mapping[str, float | None], form: str) -> str:
    """The verdicts of a run as text, md or json, the worst first, ending in a line break.

    `floors` are the noise floors (relative) by host.
    """
    if form not in _FORMATS:
        raise ValueError(f"unknown format {form!r}; allowed: {', '.join(_FORMATS)}")
    ordered = sorted(rows, key=lambda row: _ORDER.index(row["verdict"]))
    return _FORMATS[form](ordered, floors)


def render_regressions(store: MetricsStore, recovered: bool, form: str) -> str:
    """The open regressions of a store, and on request the recovered ones, as text, md, csv or json."""
    chosen = "true" if recovered else "state = 'open'"
    columns = "*" if form == "json" else _LISTED
    answer = store.query(f"SELECT {columns} FROM regressions WHERE {chosen} ORDER BY state, time DESC")  # noqa: S608
    if form == "text" and answer.num_rows == 0:
        return "no regression is open\n"
    return render_answer(answer, form)


def _summary(rows: Sequence[Row]) -> str:
    counts = [f"{sum(row['verdict'] == verdict for row in rows)} {verdict}" for verdict in _ORDER]
    return ", ".join(count for count in counts if not count.startswith("0 ")) or "nothing to judge"


def _noise(floors: Mapping[str, float | None]) -> list[str]:
    return [
        f"noise floor of {clean(host)}: {'unknown' if floor is None else f'{100 * floor:.1f} %'}"
        for host, floor in floors.items()
    ]


def _alarms(rows: Sequence[Row]) -> list[str]:
    """A sentence for each confirmed change, with what may be to blame."""
    return [
        f"{row['verdict']} of {clean(row['variant'])} on {clean(row['host'])}, since {clean(row['change_point'])}: "
        f"{clean(row['reason'])}; suspects: {_suspects(row) or 'none, no version has changed'}"
        for row in rows
        if row["verdict"] in ("regression", "improvement")
    ]


def _suspects(row: Row) -> str:
    return ", ".join(
        f"{clean(each['library'])} {clean(str(each['before']))} -> {clean(str(each['after']))}"
        for each in row["suspects"]
    )


def _cells(row: Row) -> list[str]:
    numbers = ["" if row.get(name) is None else f"{row[name]:.4g}" for name in ("value", "reference", "ratio", "band")]
    names = [clean(str(row[name])) for name in ("verdict", "host", "variant", "metric")]
    return [*names, *numbers, str(row.get("history") or 0), clean(str(row["reason"]))]


def _text(rows: Sequence[Row], floors: Mapping[str, float | None]) -> str:
    table = [list(_HEAD), *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([_summary(rows), *_alarms(rows), "", *lines, "", *_noise(floors)]) + "\n"


def _markdown(rows: Sequence[Row], floors: Mapping[str, float | None]) -> str:
    table = [list(_HEAD), ["---"] * len(_HEAD), *([escaped_markdown(cell) for cell in _cells(row)] for row in rows)]
    lines = [f"| {' | '.join(row)} |" for row in table]
    lists = [f"- {escaped_markdown(line)}" for line in (*_alarms(rows), *_noise(floors))]
    return "\n\n".join([f"**{_summary(rows)}**", "\n".join(lists), "\n".join(lines)]) + "\n"


_FORMATS: dict[str, Callable[[Sequence[Row], Mapping[str, float | None]], str]] = {
    "text": _text,
    "md": _markdown,
    "json": lambda rows, floors: (
        json.dumps({"verdicts": list(rows), "noise_floor": dict(floors)}, indent=2, default=str) + "\n"
    ),
}
