"""A recommendation on paper: as text, Markdown or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import NamedTuple

from slimline.dashboards.reports.result_table import rows_by_host
from slimline.dashboards.reports.text_tables import align_columns, markdown_table
from slimline.storage.queries.results import ResultRow
from slimline.storage.text import clean, escaped_markdown
from slimline.tasks.analysis.recommendation import Recommendation, constraint_text, figure_text, recommend
from slimline.tasks.analysis.significance import NOT_ENOUGH


class HostResults(NamedTuple):
    """A run's rows on one host, and what is recommended of them."""

    host: str
    rows: Sequence[ResultRow]
    recommendation: Recommendation


def results_by_host(rows: Sequence[ResultRow]) -> list[HostResults]:
    """A run's results host by host, each with the recommendation under the default constraints."""
    return [HostResults(host, its_rows, recommend(its_rows)) for host, its_rows in rows_by_host(rows).items()]


def render_recommendation(found: Recommendation, form: str) -> str:
    """A recommendation as text, md or json, ending in a line break.

    Raises:
        ValueError: the format is not one of these.
    """
    if form not in _FORMATS:
        raise ValueError(f"unknown format {form!r}; allowed: {', '.join(_FORMATS)}")
    return _FORMATS[form](found)


def _verdict(found: Recommendation) -> list[str]:
    bounds = [constraint_text(name, bound) for name, bound in found.constraints.items()]
    within = f"constraints: {'; '.join(bounds)} (what counts is the worse end of a 95 % interval)"
    if found.winner is None:
        obstacles = [] if found.rule == NOT_ENOUGH else _obstacles(found)
        return [f"{_doubt(found)}ship none", f"why: {found.rule}", within, *obstacles]
    winner = next(candidate for candidate in found.candidates if candidate.variant == found.winner)
    figures = {metric: figure_text(figure) for metric, figure in winner.figures.items()}
    parts = [
        f"{figures['speed_ratio']} times the speed of the baseline",
        "random weights, so of no known quality"
        if winner.random_weights
        else f"ES drop {figures['es_drop']} points against {clean(winner.reference or 'the baseline')}",
        f"{figures['disk_mb']} MB on disk",
        f"{figures['memory_mb']} MB of memory",
    ]
    label = f", {clean(winner.label)}" if winner.label else ""
    return [f"{_doubt(found)}ship {clean(winner.variant)}{label}: {', '.join(parts)}", f"why: {found.rule}", within]


def _obstacles(found: Recommendation) -> list[str]:
    """Which constraint excludes the most, and with which other bounds a variant would keep them all."""
    if not found.measured:
        return ["nothing was measured in all that a choice takes: speed, disk and memory"]
    name, count = max(found.excluded_by.items(), key=lambda item: item[1])
    constraint = constraint_text(name, found.constraints[name])
    lines = [f"excludes the most: {constraint}, {count} of {found.measured} measured variants"]
    if found.relaxation is None:
        return [*lines, "no other bound would help"]
    bounds = [constraint_text(name, bound) for name, bound in found.relaxation.bounds.items()]
    return [*lines, f"it would take: {' and '.join(bounds)}; then {clean(found.relaxation.variant)} fits"]


def _doubt(found: Recommendation) -> str:
    return f"provisional, as {found.provisional}: " if found.provisional else ""


def _frontier(found: Recommendation) -> list[list[str]]:
    """The variants on the Pareto frontier as the lines of a table, its head first."""
    metrics = {
        "es": "ES %",
        "speed_ratio": "times as fast",
        "disk_mb": "disk MB",
        "memory_over_base_mb": "over base MB",
    }
    rows = [
        [
            clean(each.variant),
            *(figure_text(each.figures[metric]) for metric in metrics),
            "no" if each.unkept else "yes",
        ]
        for each in found.candidates
        if each.on_frontier
    ]
    return [["frontier", *metrics.values(), "keeps constraints"], *rows]


def _losers(found: Recommendation) -> list[tuple[str, str]]:
    return [(clean(each.variant), "; ".join(each.loses)) for each in found.candidates if each.loses]


def _source(found: Recommendation) -> str:
    return f"study {clean(found.study)}, run {clean(found.run)}, host {clean(found.host)}"


def _text(found: Recommendation) -> str:
    lines = align_columns(_frontier(found))
    others = [f"not {name}: {reasons}" for name, reasons in _losers(found)]
    return "\n".join([*_verdict(found), "", *lines, "", *others, _source(found)]) + "\n"


def _markdown(found: Recommendation) -> str:
    head, *rows = [[escaped_markdown(cell) for cell in row] for row in _frontier(found)]
    verdict, *reasons = map(escaped_markdown, _verdict(found))
    others = [f"- {escaped_markdown(f'not {name}: {why}')}" for name, why in _losers(found)]
    parts = [
        f"**{verdict}**",
        "\n".join(f"- {reason}" for reason in reasons),
        markdown_table(head, rows),
        "\n".join(others),
    ]
    return "\n\n".join([*(part for part in parts if part), escaped_markdown(_source(found))]) + "\n"


_FORMATS: dict[str, Callable[[Recommendation], str]] = {
    "text": _text,
    "md": _markdown,
    "json": lambda found: json.dumps(asdict(found), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
}
