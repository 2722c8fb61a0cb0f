"""One picture of a run: how much faster, how much worse, and how large each variant is, against the original."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import altair as alt

from slimline.dashboards.reports.axes import Scale, fit_scale
from slimline.dashboards.reports.charts import BLUE, GREY, HEIGHT, VERMILLION, WIDTH, inline_data, layered, no_data
from slimline.dashboards.reports.label_layout import Anchor, place_labels
from slimline.storage.queries.results import ResultRow
from slimline.storage.text import clean
from slimline.tasks.analysis.pareto import pareto_frontier

MOST_NAMES = 8
ALLOWED_DROP = 2.0  # points of ES, as `recommend` allows where nothing else is asked
TITLE_Y = "change of edit similarity (ES), points"
TITLE_X = "times as fast as the original (log scale)"
_LARGEST = 1600.0  # square pixels


class _Bubble(NamedTuple):
    """A variant: its speed at equal work and its change of ES, with their paired intervals, and its size on disk."""

    variant: str
    speed: float
    slowest: float
    fastest: float
    change: float
    lo: float
    hi: float
    disk_mb: float
    kind: str


def overview(rows: Sequence[ResultRow], recommended: str | None = None) -> alt.LayerChart:
    """A bubble a variant of one run on one host: x its speed at equal work, y its change of ES, area its MB on disk.

    What failed, has random weights, or has not all three figures is left out. At most `MOST_NAMES` have their names
    beside them: the original, the recommended one, and then the Pareto frontier and the fastest.
    """
    bubbles = _bubbles(rows, recommended)
    if not bubbles:
        return no_data()
    speeds = fit_scale([1.0, *(end for each in bubbles for end in (each.slowest, each.fastest))])
    across = Scale(speeds.lo, speeds.hi, log=speeds.lo > 0)
    along = fit_scale([0.0, -ALLOWED_DROP, *(end for each in bubbles for end in (each.lo, each.hi))])
    layers = [*_lines(across), *_symbols(bubbles), *_names(bubbles, (across, along))]
    x = alt.X("x:Q", title=TITLE_X, scale=across.altair(), axis=across.axis())
    y = alt.Y("y:Q", title=TITLE_Y, scale=along.altair(), axis=along.axis())
    description = f"{TITLE_Y}, and {TITLE_X}, of {len(bubbles)} variants; the area is the size on disk"
    chart = layered([layer.encode(x, y) for layer in layers], HEIGHT, description)
    result: alt.LayerChart = chart.properties(title=alt.TitleParams(_subtitle(rows[0]), fontSize=11, anchor="start"))
    return result


def has_overview(rows: Sequence[ResultRow]) -> bool:
    """Whether some variant has all that is drawn of one."""
    return bool(_bubbles(rows, None))


def _subtitle(row: ResultRow) -> list[str]:
    """The lines below the picture's title."""
    date = "" if row.started is None else f", {row.started:%Y-%m-%d}"
    taint = "TAINTED, too noisy to trust: " if row.tainted else ""
    measured = f"{taint}measured on {clean(row.host)}{date}; the area is the size on disk, bars are 95 % intervals"
    return [measured, f"ES of what was trained on: against {clean(row.control)}"] if row.control else [measured]


def _bubbles(rows: Sequence[ResultRow], recommended: str | None) -> list[_Bubble]:
    found = []
    for row in rows:
        speed, drop, disk = (row.figure(metric) for metric in ("speed_ratio", "es_drop", "disk_mb"))
        if row.error or row.random_weights or None in (speed.value, drop.value, disk.value):
            continue
        assert speed.value is not None and drop.value is not None and disk.value is not None
        slowest, fastest = (speed.value if end is None else end for end in (speed.lo, speed.hi))
        lo, hi = (drop.value if end is None else end for end in (drop.lo, drop.hi))
        kind = "the original" if row.is_baseline else "recommended" if row.variant == recommended else "others"
        speeds, changes = (speed.value, slowest, fastest), (-drop.value, -hi, -lo)
        found.append(_Bubble(clean(row.variant), *speeds, *changes, disk.value, kind))
    return sorted(found, key=lambda each: -each.disk_mb)  # the small are drawn over the large


def _named(bubbles: Sequence[_Bubble]) -> Collection[str]:
    """The variants whose names are drawn."""
    frontier = pareto_frontier(bubbles, lambda each: (each.speed, each.change, -each.disk_mb))
    by_speed = sorted(bubbles, key=lambda each: -each.speed)
    in_order = [
        *(each for each in bubbles if each.kind != "others"),
        *(each for each in by_speed if each in frontier),
        *by_speed,
    ]
    return list(dict.fromkeys(each.variant for each in in_order))[:MOST_NAMES]


def _lines(across: Scale) -> list[alt.Chart]:
    """No change, and the drop that is allowed where nothing else is asked, from end to end."""
    values = inline_data({"x": across.lo, "to_x": across.hi, "y": y} for y in (0.0, -ALLOWED_DROP))
    line: alt.Chart = alt.Chart(values).mark_rule(color="black", strokeDash=[5, 4])
    return [line.encode(x2="to_x:Q")]


def _symbols(bubbles: Sequence[_Bubble]) -> list[alt.Chart]:
    values = inline_data({"x": each.speed, "y": each.change, **each._asdict()} for each in bubbles)
    kinds = [kind for kind in ("the original", "recommended", "others") if any(each.kind == kind for each in bubbles)]
    colours = {"the original": GREY, "recommended": VERMILLION, "others": BLUE}
    colour = alt.Color(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=kinds, range=[colours[kind] for kind in kinds]),
        legend=alt.Legend(orient="top"),
    )
    largest = max(each.disk_mb for each in bubbles)
    area = alt.Size("disk_mb:Q", title="MB on disk", scale=alt.Scale(domain=[0, largest], range=[0, _LARGEST]))
    numbers = [name for name, kind in _Bubble.__annotations__.items() if kind == "float"]
    figures = [alt.Tooltip(f"{name}:Q", format=".3g") for name in numbers]
    bars: alt.Chart = alt.Chart(values).mark_rule(opacity=0.6).encode(color=colour)
    symbols: alt.Chart = alt.Chart(values).mark_point(filled=True, opacity=0.75)
    return [
        bars.transform_calculate(x="datum.slowest").encode(x2="fastest:Q"),
        bars.transform_calculate(y="datum.lo").encode(y2="hi:Q"),
        symbols.encode(color=colour, size=area, tooltip=["variant:N", *figures]),
    ]


def _names(bubbles: Sequence[_Bubble], scales: tuple[Scale, Scale]) -> list[alt.Chart]:
    """The names, each with a line to its bubble where it is away."""
    across, along = scales
    named = _named(bubbles)
    chosen = [each for each in bubbles if each.variant in named]
    largest = max(each.disk_mb for each in bubbles)
    anchors = [
        Anchor(
            each.variant,
            WIDTH * across.share(each.speed),
            HEIGHT * (1 - along.share(each.change)),
            math.sqrt(_LARGEST * each.disk_mb / largest / math.pi),
        )
        for each in chosen
    ]
    texts, lines = [], []
    for each, label in zip(chosen, place_labels(anchors, WIDTH, HEIGHT), strict=True):
        y = along.value(1 - label.y / HEIGHT)
        texts.append({"x": across.value(label.x / WIDTH), "y": y, "text": label.text})
        if label.far:
            lines.append({"x": across.value(label.hook / WIDTH), "y": y, "to_x": each.speed, "to_y": each.change})
    text = alt.Chart(inline_data(texts)).mark_text(align="left", baseline="middle", fontSize=11)
    halo = text.mark_text(align="left", baseline="middle", fontSize=11, stroke="white", strokeWidth=4)
    line = alt.Chart(inline_data(lines)).mark_rule(color=GREY, strokeWidth=0.75, opacity=0.8)
    return [line.encode(x2="to_x:Q", y2="to_y:Q"), halo.encode(text="text:N"), text.encode(text="text:N")]
