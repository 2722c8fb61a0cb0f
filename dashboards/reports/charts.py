"""Charts of what was measured, drawn alike in a page, in a report and on paper.

Each function takes rows (of result_table, pareto or history, as dicts) and returns an Altair chart without a theme, so
that a page may bring its own; `themed` gives ours, `svg` and `png` write with it. Colours are Okabe and Ito's, which
people with any kind of colour vision tell apart, and never the only difference. The same rows give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import altair as alt
import vl_convert

from slimline.dashboards.reports.label_layout import Point, placed
from slimline.storage.text import clean
from slimline.tasks.analysis.significance import QUALITY

Rows = Sequence[Mapping[str, Any]]

# Okabe and Ito, Color Universal Design (2008), those that stand out from white and from near-black.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
GREY = "#8C8C8C"
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
# What a point of a trade-off is: its name in the legend, with its colour and shape.
RECOMMENDED, FRONTIER, DOMINATED, EXCLUDED = "recommended", "on the frontier", "dominated", "breaks a constraint"
STATES = {
    RECOMMENDED: (VERMILLION, "diamond"),
    FRONTIER: (BLUE, "circle"),
    DOMINATED: (GREEN, "square"),
    EXCLUDED: (GREY, "cross"),
}
WIDTH, HEIGHT = 720, 440
LOG_FROM = 5.0  # the largest value over the smallest from which an axis is logarithmic
# The font that vl-convert brings along, then those with the same widths: text is as wide everywhere.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
NOTHING = "nothing to draw: no variant has the figures"


class Axis(NamedTuple):
    """What a metric is called on an axis, with its unit, and whether more of it is better."""

    title: str
    more_is_better: bool


AXES = {
    "samples_per_s": Axis("speed, samples/s", True),
    "speed_ratio": Axis("speed, times the baseline", True),
    "es": Axis("edit similarity (ES), %", True),
    "em": Axis("exact match (EM), %", True),
    "disk_mb": Axis("disk, MB", False),
    "disk_gzip_mb": Axis("disk, gzip archive, MB", False),
    "memory_mb": Axis("peak memory, MB", False),
    "memory_over_base_mb": Axis("peak memory over an empty process, MB", False),
    "energy_j_per_sample": Axis("energy, J/sample", False),
    "latency_p50_ms": Axis("median latency, ms", False),
    "latency_p95_ms": Axis("95th percentile of latency, ms", False),
    "params_m": Axis("parameters, millions", False),
}


class _Scale(NamedTuple):
    """An axis' range, and where a value lies on it."""

    lo: float
    hi: float
    log: bool

    def share(self, value: float) -> float:
        """0 at the lower end, 1 at the upper one."""
        lo, hi, at = ((math.log(each) if self.log else each) for each in (self.lo, self.hi, max(value, self.lo)))
        return (at - lo) / (hi - lo)

    def value(self, share: float) -> float:
        """What lies there: the opposite of `share`."""
        if self.log:
            return float(self.lo * (self.hi / self.lo) ** share)
        return self.lo + share * (self.hi - self.lo)

    def altair(self) -> alt.Scale:
        """The same for Vega."""
        return alt.Scale(type="log" if self.log else "linear", domain=[self.lo, self.hi], nice=False, zero=False)


def tradeoff(
    rows: Rows,
    x: str = "samples_per_s",
    y: str = "es",
    excluded: Collection[str] = (),
    recommended: str | None = None,
) -> alt.LayerChart:
    """Variants of one run and host in two metrics of AXES, with 95 % intervals as bars.

    The step line is the Pareto frontier in these two metrics of those not `excluded`; these are grey. Random weights
    have no ES or EM. Raises ValueError for a metric that is not in AXES.
    """
    for name in (x, y):
        if name not in AXES:
            raise ValueError(f"axis: {name!r}, allowed: {', '.join(AXES)}")
    found = [_point(row, x, y) for row in rows if _has(row, x) and _has(row, y)]
    if not found:
        return _nothing()
    frontier = _frontier([point for point in found if point["variant"] not in excluded], x, y)
    for point in found:
        point["state"] = _state(point, frontier, excluded, recommended)
    found.sort(key=lambda point: -list(STATES).index(point["state"]))  # what matters more is drawn over the rest
    scales = _scale(found, "x"), _scale(found, "y")
    titles = [
        AXES[name].title + (" (log scale)" if scale.log else "") for name, scale in zip((x, y), scales, strict=True)
    ]
    position = (
        alt.X("x:Q", title=titles[0], scale=scales[0].altair(), axis=_axis(scales[0])),
        alt.Y("y:Q", title=titles[1], scale=scales[1].altair(), axis=_axis(scales[1])),
    )
    layers = [_steps(frontier, scales, x, y), *_bars(found), *_named(found, scales), _symbols(found, x, y)]
    described = f"{AXES[y].title} against {AXES[x].title} of {len(found)} variants, with 95 % intervals"
    return _layered([layer.encode(*position) for layer in layers], HEIGHT, described)


def drawable(rows: Rows, x: str, y: str) -> bool:
    """Whether some variant has both figures."""
    return any(_has(row, x) and _has(row, y) for row in rows)


def _has(row: Mapping[str, Any], metric: str) -> bool:
    hidden = row["random_weights"] and metric in QUALITY
    return row[metric] is not None and not row["error"] and not hidden


def _point(row: Mapping[str, Any], x: str, y: str) -> dict[str, Any]:
    point = {"variant": clean(row["variant"])}
    for name, metric in (("x", x), ("y", y)):
        value = row[metric]
        lo, hi = row.get(f"{metric}_lo"), row.get(f"{metric}_hi")
        point |= {name: value, f"{name}_lo": value if lo is None else lo, f"{name}_hi": value if hi is None else hi}
    return point


def _frontier(points: Sequence[Mapping[str, Any]], x: str, y: str) -> list[Mapping[str, Any]]:
    """Those that no other is at least as good as in both and better in one, from left to right."""
    signs = {"x": 1 if AXES[x].more_is_better else -1, "y": 1 if AXES[y].more_is_better else -1}

    def beats(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        gains: list[float] = [sign * (one[axis] - other[axis]) for axis, sign in signs.items()]
        return min(gains) >= 0 and max(gains) > 0

    best = [point for point in points if not any(beats(other, point) for other in points)]
    return sorted(best, key=lambda point: (point["x"], point["y"]))


def _state(
    point: Mapping[str, Any], frontier: Sequence[object], excluded: Collection[str], recommended: str | None
) -> str:
    if point["variant"] == recommended:
        return RECOMMENDED
    if point["variant"] in excluded:
        return EXCLUDED
    return FRONTIER if point in frontier else DOMINATED


def _scale(points: Sequence[Mapping[str, Any]], axis: str) -> _Scale:
    """From the least to the greatest, intervals included, with some room around."""
    values = [point[f"{axis}{end}"] for point in points for end in ("", "_lo", "_hi")]
    lo, hi = min(values), max(values)
    if lo > 0 and hi / lo >= LOG_FROM:
        room = (hi / lo) ** 0.06
        return _Scale(lo / room, hi * room, log=True)
    room = 0.06 * (hi - lo) or 0.1 * abs(hi) or 1.0
    return _Scale(lo - room, hi + room, log=False)


def _axis(scale: _Scale) -> alt.Axis:
    if not scale.log:
        return alt.Axis(format="~g")
    tens = range(math.floor(math.log10(scale.lo)), math.ceil(math.log10(scale.hi)) + 1)
    ticks = [digit * 10.0**power for power in tens for digit in (1, 2, 5)]
    return alt.Axis(format="~g", values=[tick for tick in ticks if scale.lo <= tick <= scale.hi])


def _data(rows: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    return alt.InlineData(values=[dict(row) for row in rows])


def _steps(frontier: Sequence[Mapping[str, Any]], scales: tuple[_Scale, _Scale], x: str, y: str) -> alt.Chart:
    """The edge of what is dominated, out to the edges of the plot."""
    across, along = (
        scale.lo if AXES[name].more_is_better else scale.hi for name, scale in zip((x, y), scales, strict=True)
    )
    corners = [{"x": point["x"], "y": point["y"]} for point in frontier]
    if corners and AXES[x].more_is_better:
        corners = [{"x": across, "y": corners[0]["y"]}, *corners, {"x": corners[-1]["x"], "y": along}]
    elif corners:
        corners = [{"x": corners[0]["x"], "y": along}, *corners, {"x": across, "y": corners[-1]["y"]}]
    numbered = [corner | {"place": place} for place, corner in enumerate(corners)]
    kind: Literal["step-before", "step-after"] = "step-before" if AXES[x].more_is_better else "step-after"
    line: alt.Chart = alt.Chart(_data(numbered)).mark_line(interpolate=kind, color=BLUE, opacity=0.5)
    return line.encode(order="place:Q")


def _bars(points: Sequence[Mapping[str, Any]]) -> list[alt.Chart]:
    base: alt.Chart = alt.Chart(_data(points)).mark_rule(opacity=0.6, strokeWidth=1).encode(color=_colours(points))
    return [
        base.encode(x2="x_hi:Q").transform_calculate(x="datum.x_lo"),
        base.encode(y2="y_hi:Q").transform_calculate(y="datum.y_lo"),
    ]


def _colours(points: Sequence[Mapping[str, Any]]) -> alt.Color:
    states = [state for state in STATES if any(point["state"] == state for point in points)]
    scale = alt.Scale(domain=states, range=[STATES[state][0] for state in states])
    return alt.Color("state:N", title=None, scale=scale, legend=alt.Legend(orient="top"))


def _symbols(points: Sequence[Mapping[str, Any]], x: str, y: str) -> alt.Chart:
    states = [state for state in STATES if any(point["state"] == state for point in points)]
    shape = alt.Shape("state:N", title=None, scale=alt.Scale(domain=states, range=[STATES[each][1] for each in states]))
    figures = (alt.Tooltip("x:Q", title=AXES[x].title), alt.Tooltip("y:Q", title=AXES[y].title))
    marks: alt.Chart = alt.Chart(_data(points)).mark_point(filled=True, size=70, opacity=1)
    return marks.encode(color=_colours(points), shape=shape, tooltip=["variant:N", *figures, "state:N"])


def _named(points: Sequence[Mapping[str, Any]], scales: tuple[_Scale, _Scale]) -> list[alt.Chart]:
    """The variants' names where they cover nothing, each with a line to its point if that is away."""
    on_page = [
        Point(point["variant"], WIDTH * scales[0].share(point["x"]), HEIGHT * (1 - scales[1].share(point["y"])))
        for point in points
    ]
    labels, lines = [], []
    for point, label in zip(points, placed(on_page, WIDTH, HEIGHT), strict=True):
        at = {"x": scales[0].value(label.x / WIDTH), "y": scales[1].value(1 - label.y / HEIGHT)}
        labels.append(at | {"text": label.text, "state": point["state"]})
        if label.far:
            hook = scales[0].value(label.hook / WIDTH)
            lines.append({"x": hook, "y": at["y"], "to_x": point["x"], "to_y": point["y"]})
    text = alt.Chart(_data(labels)).mark_text(align="left", baseline="middle", fontSize=11)
    text = text.encode(
        text="text:N", opacity=alt.condition(f"datum.state === '{EXCLUDED}'", alt.value(0.65), alt.value(1))
    )
    line = alt.Chart(_data(lines)).mark_rule(color=GREY, strokeWidth=0.75, opacity=0.8)
    return [line.encode(x2="to_x:Q", y2="to_y:Q"), text]


def _layered(layers: Sequence[alt.Chart], height: float | alt.Step, description: str) -> alt.LayerChart:
    # A layer that draws nothing would be a picture without a name to a screen reader.
    drawn = [layer for layer in layers if layer.data.values]
    return alt.LayerChart(layer=drawn, width=WIDTH, height=height, description=description)


def _nothing() -> alt.LayerChart:
    text = alt.Chart(_data([{"text": NOTHING}])).mark_text(fontSize=13).encode(text="text:N")
    return _layered([text], 80, NOTHING)


def speedups(rows: Rows) -> alt.LayerChart:
    """Paired speed ratios to the baseline of one run and host as bars, fastest first, with 95 % intervals."""
    found = [
        _point(row, "speed_ratio", "samples_per_s") | {"what": "baseline" if row["variant"] == row["baseline"] else ""}
        for row in rows
        if row["speed_ratio"] is not None and row["samples_per_s"] is not None and not row["error"]
    ]
    if not found:
        return _nothing()
    for row in found:
        row["text"] = f"{row['x']:.2f}"
    order = [row["variant"] for row in sorted(found, key=lambda row: (-row["x"], row["variant"]))]
    base = alt.Chart(_data(found)).encode(alt.Y("variant:N", sort=order, title=None))
    colour = alt.condition("datum.what === 'baseline'", alt.value(GREY), alt.value(BLUE))
    tooltip = ["variant:N", *(alt.Tooltip(f"{end}:Q", format=".3f") for end in ("x", "x_lo", "x_hi"))]
    title = AXES["speed_ratio"].title
    bars = base.mark_bar(opacity=0.75).encode(alt.X("x:Q", title=title), color=colour, tooltip=tooltip)
    intervals = base.mark_rule(strokeWidth=1.5, color=VERMILLION).encode(alt.X("x_lo:Q", title=title), x2="x_hi:Q")
    texts = base.mark_text(align="left", dx=6).encode(alt.X("x_hi:Q", title=title), text="text:N")
    one = alt.Chart(_data([{"x": 1}])).mark_rule(color=GREY, strokeDash=[4, 3]).encode(x="x:Q")
    described = f"{title}, of {len(found)} variants, with 95 % intervals"
    return _layered([bars, one, intervals, texts], alt.Step(20), described)


def history(rows: Rows, marks: Rows = ()) -> alt.LayerChart:
    """One metric over time, a line per variant (and host, where there are several), with 95 % intervals as bands.

    Rows are the history view's. A mark is a dict with `time`, `text` and `kind`: "change" for a change point, anything
    else for what may explain one, such as "upgrade".
    """
    if not rows:
        return _nothing()
    hosts = {row["host"] for row in rows}
    series = [{**_moment(row), "series": _series(row, len(hosts) > 1)} for row in rows]
    names = list(dict.fromkeys(row["series"] for row in series))
    first = rows[0]
    unit = f", {first['unit']}" if first["unit"] else ""
    title = AXES[first["metric"]].title if first["metric"] in AXES else f"{clean(first['metric'])}{unit}"
    when = alt.X("time:T", title="time (UTC)", scale=alt.Scale(type="utc"), axis=alt.Axis(labelOverlap=True))
    range_ = alt.Scale(domain=names, range=[SERIES[number % len(SERIES)] for number in range(len(names))])
    shapes = alt.Scale(domain=names, range=[SHAPES[number % len(SHAPES)] for number in range(len(names))])
    value = alt.Y("value:Q", title=title, scale=alt.Scale(zero=False))
    base = alt.Chart(_data(series)).encode(when, color=alt.Color("series:N", title=None, scale=range_))
    band = base.mark_area(opacity=0.18).encode(alt.Y("lo:Q", title=title, scale=alt.Scale(zero=False)), y2="hi:Q")
    tooltip = ["series:N", "value:Q", "lo:Q", "hi:Q", "run:N", alt.Tooltip("time:T", format="%Y-%m-%d %H:%M")]
    points = base.mark_point(filled=True, size=45).encode(
        value, shape=alt.Shape("series:N", title=None, scale=shapes), tooltip=tooltip
    )
    layers = [band, base.mark_line().encode(value), points, *_events(marks)]
    described = f"{title} over time: {', '.join(names)}"
    return _layered(layers, 320, described)


def _series(row: Mapping[str, Any], several: bool) -> str:
    return clean(f"{row['variant']} on {row['host']}" if several else row["variant"])


def _moment(row: Mapping[str, Any]) -> dict[str, Any]:
    figures = {name: row[name] for name in ("value", "run")}
    ends = {end: row["value"] if row[end] is None else row[end] for end in ("lo", "hi")}
    return {**figures, **ends, "time": _time(row["time"])}


def _time(value: Any) -> str:
    return value if isinstance(value, str) else str(value.isoformat())


def _events(marks: Rows) -> list[alt.Chart]:
    """A vertical line each, its text along it."""
    events = [{"time": _time(mark["time"]), "text": clean(mark["text"]), "kind": mark["kind"]} for mark in marks]
    if not events:
        return []
    is_change = "datum.kind === 'change'"
    base = alt.Chart(_data(events)).encode(
        alt.X("time:T", scale=alt.Scale(type="utc")),
        color=alt.condition(is_change, alt.value(VERMILLION), alt.value(GREY)),
        tooltip=["kind:N", "text:N", alt.Tooltip("time:T", format="%Y-%m-%d %H:%M")],
    )
    lines = base.mark_rule(strokeWidth=1.5).encode(
        strokeDash=alt.condition(is_change, alt.value([6, 3]), alt.value([2, 2]))
    )
    texts = base.mark_text(angle=270, align="right", baseline="bottom", dx=-4, dy=-3, fontSize=10, limit=300)
    return [lines, texts.encode(y=alt.value(0), text="text:N")]


def themed(chart: alt.LayerChart, dark: bool = False) -> alt.LayerChart:
    """The chart in ink that stands out from a light or a dark page, on no background of its own."""
    ink, faint = ("#E6E6E6", "#3A3F47") if dark else ("#222222", "#DDDDDD")
    axis = alt.AxisConfig(labelColor=ink, titleColor=ink, gridColor=faint, domainColor=GREY, tickColor=GREY)
    config = alt.Config(
        font=FONT,
        background="transparent",
        axis=axis,
        legend=alt.LegendConfig(labelColor=ink, titleColor=ink, symbolOpacity=1),
        text=alt.MarkConfig(color=ink),
        view=alt.ViewConfig(stroke=None),
    )
    themed: alt.LayerChart = chart.properties(config=config)
    return themed


def svg(chart: alt.LayerChart, background: str = "transparent") -> str:
    """The chart as SVG text, light."""
    return vl_convert.vegalite_to_svg(_spec(chart, background), allowed_base_urls=[])


def png(chart: alt.LayerChart, background: str = "white", scale: float = 2.0) -> bytes:
    """The chart as a PNG file, light, `scale` pixels to a point."""
    return vl_convert.vegalite_to_png(_spec(chart, background), scale=scale, allowed_base_urls=[])


def _spec(chart: alt.LayerChart, background: str) -> dict[str, Any]:
    drawn = themed(chart)
    drawn.config.background = background
    spec: dict[str, Any] = drawn.to_dict()
    return spec
