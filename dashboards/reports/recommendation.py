"""A recommendation on paper: as text, Markdown or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

from slimline.storage.metrics.store import MetricsStore
from slimline.storage.queries.results import result_rows
from slimline.storage.text import clean, escaped_markdown
from slimline.tasks.analysis.recommendation import Recommendation, described, recommend


def recommendations(store: MetricsStore, run: str, form: str) -> list[str]:
    """The recommendation under the default constraints for each host of a run, as `render_recommendation` gives it."""
    rows = result_rows(store, run=run)
    hosts = dict.fromkeys(row["host"] for row in rows)
    return [render_recommendation(recommend([row for row in rows if row["host"] == host]), form) for host in hosts]


def render_recommendation(found: Recommendation, form: str) -> str:
    """A recommendation as text, md or json, ending in a line break."""
    if form not in _FORMATS:
        raise ValueError(f"unknown format {form!r}; allowed: {', '.join(_FORMATS)}")
    return _FORMATS[form](found)


def _verdict(found: Recommendation) -> list[str]:
    bounds = [described(name, bound) for name, bound in found.constraints.items()]
    within = f"constraints: {'; '.join(bounds)} (what counts is the worse end of a 95 % interval)"
    if found.winner is None:
        return ["ship none", f"why: {found.rule}", within, *_obstacles(found), *_doubts(found)]
    winner = next(candidate for candidate in found.candidates if candidate.variant == found.winner)
    figures = winner.figures
    parts = [
        f"{figures['speed_ratio']} times the speed of the baseline",
        "random weights, so of no known quality" if winner.random_weights else f"ES drop {figures['es_drop']} points",
        f"{figures['disk_mb']} MB on disk",
        f"{figures['memory_mb']} MB of memory",
    ]
    label = f", {clean(winner.label)}" if winner.label else ""
    return [f"ship {clean(winner.variant)}{label}: {', '.join(parts)}", f"why: {found.rule}", within, *_doubts(found)]


def _obstacles(found: Recommendation) -> list[str]:
    """Which constraint excludes the most, and what would have to give."""
    if not found.measured:
        return ["nothing was measured in all that a choice takes: speed, disk and memory"]
    name, count = max(found.excluded_by.items(), key=lambda item: item[1])
    lines = [
        f"excludes the most: {described(name, found.constraints[name])}, {count} of {found.measured} measured variants"
    ]
    if found.relaxation is None:
        return [*lines, "no other bound would help"]
    bounds = [described(name, bound) for name, bound in found.relaxation.bounds.items()]
    return [*lines, f"it would take: {' and '.join(bounds)}; then {clean(found.relaxation.variant)} fits"]


def _doubts(found: Recommendation) -> list[str]:
    if not found.tainted:
        return []
    noise = "unknown" if found.noise_floor is None else f"{100 * found.noise_floor:.1f} %"
    return [f"TAINTED: noise floor {noise}: too noisy to trust the speeds, and with them this choice"]


def _frontier(found: Recommendation) -> list[list[str]]:
    """A table, its head first."""
    metrics = {"es": "ES %", "samples_per_s": "samples/s", "disk_mb": "disk MB", "memory_over_base_mb": "over base MB"}
    rows = [
        [clean(each.variant), *(str(each.figures[metric]) for metric in metrics), "no" if each.unkept else "yes"]
        for each in found.candidates
        if each.on_frontier
    ]
    return [["frontier", *metrics.values(), "keeps constraints"], *rows]


def _losers(found: Recommendation) -> list[tuple[str, str]]:
    return [(clean(each.variant), "; ".join(each.loses)) for each in found.candidates if each.loses]


def _source(found: Recommendation) -> str:
    return f"study {clean(found.study)}, run {clean(found.run)}, host {clean(found.host)}"


def _text(found: Recommendation) -> str:
    table = _frontier(found)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    others = [f"not {name}: {reasons}" for name, reasons in _losers(found)]
    return "\n".join([*_verdict(found), "", *lines, "", *others, _source(found)]) + "\n"


def _markdown(found: Recommendation) -> str:
    head, *rows = [[escaped_markdown(cell) for cell in row] for row in _frontier(found)]
    table = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    verdict, *reasons = map(escaped_markdown, _verdict(found))
    others = [f"- {escaped_markdown(f'not {name}: {why}')}" for name, why in _losers(found)]
    parts = [f"**{verdict}**", "\n".join(f"- {reason}" for reason in reasons), "\n".join(table), "\n".join(others)]
    return "\n\n".join([*(part for part in parts if part), escaped_markdown(_source(found))]) + "\n"


_FORMATS: dict[str, Callable[[Recommendation], str]] = {
    "text": _text,
    "md": _markdown,
    "json": lambda found: json.dumps(asdict(found), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
}
