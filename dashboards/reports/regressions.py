"""Verdicts on paper: as text, Markdown or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from slimline.dashboards.reports.query_answer import render_answer
from slimline.dashboards.reports.text_tables import align_columns, markdown_table
from slimline.storage.metrics.rows import VerdictRow
from slimline.storage.metrics.store import MetricsStore
from slimline.storage.text import clean, escaped_markdown

_ORDER = ("regression", "failed", "suspicious-unconfirmed", "improvement", "not-comparable", "new", "ok")
_COLUMNS = "state, study, host, variant, metric, value, reference, ratio, change_point, change_time, reason, suspects"
_HEAD = ("verdict", "host", "variant", "metric", "value", "reference", "ratio", "band", "nights", "why")


def render_verdicts(rows: Sequence[VerdictRow], floors: Mapping[str, float | None], form: str) -> str:
    """The verdicts of a run as text, md or json, the worst first, ending in a line break.

    Args:
        rows: the verdicts.
        floors: the noise floors (relative) by host; null where unknown.
        form: text, md or json.

    Raises:
        ValueError: the format is not one of these.
    """
    if form not in _FORMATS:
        raise ValueError(f"unknown format {form!r}; allowed: {', '.join(_FORMATS)}")
    ordered = sorted(rows, key=lambda row: _ORDER.index(row.verdict))
    return _FORMATS[form](ordered, floors)


def render_regressions(store: MetricsStore, recovered: bool, form: str) -> str:
    """The open regressions of a store, and on request the recovered ones, as text, md, csv or json."""
    condition = "true" if recovered else "state = 'open'"
    columns = "*" if form == "json" else _COLUMNS
    answer = store.query(f"SELECT {columns} FROM regressions WHERE {condition} ORDER BY state, time DESC")  # noqa: S608 - constants only
    if form == "text" and answer.num_rows == 0:
        return "no regression is open\n"
    return render_answer(answer, form)


def _summary(rows: Sequence[VerdictRow]) -> str:
    counts = [f"{sum(row.verdict == verdict for row in rows)} {verdict}" for verdict in _ORDER]
    return ", ".join(count for count in counts if not count.startswith("0 ")) or "nothing to judge"


def _noise(floors: Mapping[str, float | None]) -> list[str]:
    return [
        f"noise floor of {clean(host)}: {'unknown' if floor is None else f'{100 * floor:.1f} %'}"
        for host, floor in floors.items()
    ]


def _alarms(rows: Sequence[VerdictRow]) -> list[str]:
    """A sentence for each confirmed change, with what may have caused it."""
    return [
        f"{row.verdict} of {clean(row.variant)} on {clean(row.host)}, since {clean(row.change_point)}: "
        f"{clean(row.reason)}; suspects: {_suspects(row) or 'none, no version has changed'}"
        for row in rows
        if row.verdict in ("regression", "improvement")
    ]


def _suspects(row: VerdictRow) -> str:
    return ", ".join(
        f"{clean(each.library)} {clean(each.before)} -> {clean(each.after)}" for each in row.suspects or ()
    )


def _cells(row: VerdictRow) -> list[str]:
    numbers = ["" if each is None else f"{each:.4g}" for each in (row.value, row.reference, row.ratio, row.band)]
    names = [clean(each) for each in (row.verdict, row.host, row.variant, row.metric)]
    return [*names, *numbers, str(row.history or 0), clean(row.reason)]


def _text(rows: Sequence[VerdictRow], floors: Mapping[str, float | None]) -> str:
    lines = align_columns([_HEAD, *map(_cells, rows)])
    return "\n".join([_summary(rows), *_alarms(rows), "", *lines, "", *_noise(floors)]) + "\n"


def _markdown(rows: Sequence[VerdictRow], floors: Mapping[str, float | None]) -> str:
    table = markdown_table(_HEAD, [[escaped_markdown(cell) for cell in _cells(row)] for row in rows])
    notes = [f"- {escaped_markdown(line)}" for line in (*_alarms(rows), *_noise(floors))]
    return "\n\n".join([f"**{_summary(rows)}**", "\n".join(notes), table]) + "\n"


def _json(rows: Sequence[VerdictRow], floors: Mapping[str, float | None]) -> str:
    content = {"verdicts": [row.model_dump() for row in rows], "noise_floor": dict(floors)}
    return json.dumps(content, indent=2, default=str) + "\n"


_FORMATS: dict[str, Callable[[Sequence[VerdictRow], Mapping[str, float | None]], str]] = {
    "text": _text,
    "md": _markdown,
    "json": _json,
}
