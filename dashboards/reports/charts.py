"""Charts of what was measured, the same on a page, in a report and on paper.

Each function takes typed rows and returns an Altair chart without a theme, so that a page may bring its own;
`with_theme` adds ours, `svg` and `png` write with it. Colours are Okabe and Ito's, which people with any kind of colour
vision can distinguish, and never the only difference. The same rows give the same bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

import altair as alt
import vl_convert

from slimline.dashboards.reports.axes import AXES, Scale, fit_scale
from slimline.dashboards.reports.label_layout import Anchor, place_labels
from slimline.storage.metrics.metric import METRICS
from slimline.storage.queries.results import ResultRow
from slimline.storage.queries.series import SeriesPoint
from slimline.storage.text import clean
from slimline.tasks.analysis.pareto import pareto_frontier
from slimline.tasks.analysis.significance import QUALITY

# Okabe and Ito, Color Universal Design (2008), those that can be seen on white and on near-black.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
GREY = "#8C8C8C"
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
# The state of a point of a trade-off: its name in the legend, with its colour and shape.
RECOMMENDED, FRONTIER, DOMINATED, EXCLUDED = "recommended", "on the frontier", "dominated", "breaks a constraint"
STATES = {
    RECOMMENDED: (VERMILLION, "diamond"),
    FRONTIER: (BLUE, "circle"),
    DOMINATED: (GREEN, "square"),
    EXCLUDED: (GREY, "cross"),
}
WIDTH, HEIGHT = 720, 440
# The font that vl-convert brings along, then those with the same widths: text is as wide everywhere.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
NO_DATA = "nothing to draw: no variant has the figures"


class Mark(NamedTuple):
    """A moment that a history marks: a change of a level, or an upgrade that may explain one."""

    time: datetime
    text: str
    kind: Literal["change", "upgrade"]


class _Span(NamedTuple):
    """A value with its interval; without one, its ends are the value."""

    value: float
    lo: float
    hi: float


class _Point(NamedTuple):
    """A variant in two metrics, and its state."""

    variant: str
    x: _Span
    y: _Span
    state: str = ""

    def data(self) -> dict[str, object]:
        """As Vega reads it."""
        spans = {"x": self.x, "y": self.y}
        ends = {f"{name}_{end}": at for name, span in spans.items() for end, at in (("lo", span.lo), ("hi", span.hi))}
        return {"variant": self.variant, "x": self.x.value, "y": self.y.value, **ends, "state": self.state}


class _Plane(NamedTuple):
    """The two metrics of a trade-off and their scales."""

    x: str
    y: str
    scales: tuple[Scale, Scale]

    def encoding(self) -> tuple[alt.X, alt.Y]:
        """The position of everything that is drawn in it."""
        x, y = self.scales
        return (
            alt.X("x:Q", title=x.title(self.x), scale=x.altair(), axis=x.axis()),
            alt.Y("y:Q", title=y.title(self.y), scale=y.altair(), axis=y.axis()),
        )


def tradeoff(
    rows: Sequence[ResultRow],
    x: str = "samples_per_s",
    y: str = "es",
    excluded: Collection[str] = (),
    recommended: str | None = None,
) -> alt.LayerChart:
    """Variants of one run and host in two metrics of AXES, with 95 % intervals as bars.

    The step line is the Pareto frontier in these two metrics of the variants that are not excluded. Random weights have
    no ES or EM.

    Args:
        rows: the variants.
        x: the metric across.
        y: the metric along.
        excluded: variants that break a constraint, drawn in grey.
        recommended: the variant to ship.

    Raises:
        ValueError: a metric is not in AXES.
    """
    for name in (x, y):
        if name not in AXES:
            raise ValueError(f"axis: {name!r}, allowed: {', '.join(AXES)}")
    found = _points(rows, x, y)
    if not found:
        return no_data()
    frontier = _frontier([point for point in found if point.variant not in excluded], x, y)
    points = [point._replace(state=_state(point, frontier, excluded, recommended)) for point in found]
    points.sort(key=lambda point: -list(STATES).index(point.state))  # what matters more is drawn over the rest
    scales = [
        fit_scale([at for span in spans for at in span]) for spans in zip(*((p.x, p.y) for p in points), strict=True)
    ]
    plane = _Plane(x, y, (scales[0], scales[1]))
    layers = [_steps(frontier, plane), *_bars(points), *_labels(points, plane), _symbols(points, plane)]
    description = f"{AXES[y]} against {AXES[x]} of {len(points)} variants, with 95 % intervals"
    return layered([layer.encode(*plane.encoding()) for layer in layers], HEIGHT, description)


def has_points(rows: Sequence[ResultRow], x: str, y: str) -> bool:
    """Whether some variant has both figures."""
    return bool(_points(rows, x, y))


def _points(rows: Sequence[ResultRow], x: str, y: str) -> list[_Point]:
    spans = [(clean(row.variant), _span(row, x), _span(row, y)) for row in rows if not row.error]
    return [_Point(variant, across, along) for variant, across, along in spans if across and along]


def _span(row: ResultRow, metric: str) -> _Span | None:
    """A figure to draw; null where there is none, or it means nothing."""
    figure = row.figure(metric)
    if figure.value is None or (row.random_weights and metric in QUALITY):
        return None
    return _fill(figure.value, figure.lo, figure.hi)


def _fill(value: float, lo: float | None, hi: float | None) -> _Span:
    return _Span(value, value if lo is None else lo, value if hi is None else hi)


def _frontier(points: Sequence[_Point], x: str, y: str) -> list[_Point]:
    """The Pareto frontier, from left to right."""
    signs = [1 if METRICS[name].more_is_better else -1 for name in (x, y)]
    best = pareto_frontier(points, lambda point: (signs[0] * point.x.value, signs[1] * point.y.value))
    return sorted(best, key=lambda point: (point.x.value, point.y.value))


def _state(point: _Point, frontier: Sequence[_Point], excluded: Collection[str], recommended: str | None) -> str:
    if point.variant == recommended:
        return RECOMMENDED
    if point.variant in excluded:
        return EXCLUDED
    return FRONTIER if point in frontier else DOMINATED


def inline_data(values: Iterable[Mapping[str, object]]) -> alt.InlineData:
    """Rows as Vega reads them."""
    return alt.InlineData(values=[dict(each) for each in values])


def _steps(frontier: Sequence[_Point], plane: _Plane) -> alt.Chart:
    """The line between what is dominated and what is not, out to the edges of the plot."""
    rising = bool(METRICS[plane.x].more_is_better)
    across, along = (
        scale.lo if METRICS[name].more_is_better else scale.hi
        for name, scale in zip((plane.x, plane.y), plane.scales, strict=True)
    )
    corners = [(point.x.value, point.y.value) for point in frontier]
    if corners and rising:
        corners = [(across, corners[0][1]), *corners, (corners[-1][0], along)]
    elif corners:
        corners = [(corners[0][0], along), *corners, (across, corners[-1][1])]
    values = [{"x": x, "y": y, "place": place} for place, (x, y) in enumerate(corners)]
    kind: Literal["step-before", "step-after"] = "step-before" if rising else "step-after"
    line: alt.Chart = alt.Chart(inline_data(values)).mark_line(interpolate=kind, color=BLUE, opacity=0.5)
    return line.encode(order="place:Q")


def _bars(points: Sequence[_Point]) -> list[alt.Chart]:
    """The intervals."""
    values = inline_data(point.data() for point in points)
    base: alt.Chart = alt.Chart(values).mark_rule(opacity=0.6, strokeWidth=1).encode(color=_colours(points))
    return [
        base.encode(x2="x_hi:Q").transform_calculate(x="datum.x_lo"),
        base.encode(y2="y_hi:Q").transform_calculate(y="datum.y_lo"),
    ]


def _legend(points: Sequence[_Point]) -> list[str]:
    return [state for state in STATES if any(point.state == state for point in points)]


def _colours(points: Sequence[_Point]) -> alt.Color:
    states = _legend(points)
    scale = alt.Scale(domain=states, range=[STATES[state][0] for state in states])
    return alt.Color("state:N", title=None, scale=scale, legend=alt.Legend(orient="top"))


def _symbols(points: Sequence[_Point], plane: _Plane) -> alt.Chart:
    states = _legend(points)
    shape = alt.Shape("state:N", title=None, scale=alt.Scale(domain=states, range=[STATES[each][1] for each in states]))
    figures = (alt.Tooltip("x:Q", title=AXES[plane.x]), alt.Tooltip("y:Q", title=AXES[plane.y]))
    values = inline_data(point.data() for point in points)
    marks: alt.Chart = alt.Chart(values).mark_point(filled=True, size=70, opacity=1)
    return marks.encode(color=_colours(points), shape=shape, tooltip=["variant:N", *figures, "state:N"])


def _labels(points: Sequence[_Point], plane: _Plane) -> list[alt.Chart]:
    """The variants' names where they cover nothing, each with a line to its point if that is away."""
    across, along = plane.scales
    anchors = [
        Anchor(point.variant, WIDTH * across.share(point.x.value), HEIGHT * (1 - along.share(point.y.value)))
        for point in points
    ]
    texts, lines = [], []
    for point, label in zip(points, place_labels(anchors, WIDTH, HEIGHT), strict=True):
        x, y = across.value(label.x / WIDTH), along.value(1 - label.y / HEIGHT)
        texts.append({"x": x, "y": y, "text": label.text, "state": point.state})
        if label.far:
            hook = across.value(label.hook / WIDTH)
            lines.append({"x": hook, "y": y, "to_x": point.x.value, "to_y": point.y.value})
    faint_if_excluded = alt.condition(f"datum.state === '{EXCLUDED}'", alt.value(0.65), alt.value(1))
    text = alt.Chart(inline_data(texts)).mark_text(align="left", baseline="middle", fontSize=11)
    line = alt.Chart(inline_data(lines)).mark_rule(color=GREY, strokeWidth=0.75, opacity=0.8)
    return [line.encode(x2="to_x:Q", y2="to_y:Q"), text.encode(text="text:N", opacity=faint_if_excluded)]


def layered(layers: Sequence[alt.Chart], height: float | alt.Step, description: str) -> alt.LayerChart:
    """Layers as one chart, described for those who cannot see it."""
    # A screen reader would announce a layer that draws nothing as a picture without a name.
    with_data = [layer for layer in layers if layer.data.values]
    return alt.LayerChart(layer=with_data, width=WIDTH, height=height, description=description)


def no_data() -> alt.LayerChart:
    """What is drawn where there is nothing to draw."""
    text = alt.Chart(inline_data([{"text": NO_DATA}])).mark_text(fontSize=13).encode(text="text:N")
    return layered([text], 80, NO_DATA)


def speedups(rows: Sequence[ResultRow]) -> alt.LayerChart:
    """Paired speed ratios to the baseline of one run and host as bars, fastest first, with 95 % intervals."""
    points = _points(rows, "speed_ratio", "samples_per_s")
    if not points:
        return no_data()
    baselines = {clean(row.variant) for row in rows if row.is_baseline}
    values = [
        point.data() | {"text": f"{point.x.value:.2f}", "what": "baseline" if point.variant in baselines else ""}
        for point in points
    ]
    order = [point.variant for point in sorted(points, key=lambda point: (-point.x.value, point.variant))]
    base = alt.Chart(inline_data(values)).encode(alt.Y("variant:N", sort=order, title=None))
    colour = alt.condition("datum.what === 'baseline'", alt.value(GREY), alt.value(BLUE))
    tooltip = ["variant:N", *(alt.Tooltip(f"{end}:Q", format=".3f") for end in ("x", "x_lo", "x_hi"))]
    title = AXES["speed_ratio"]
    bars = base.mark_bar(opacity=0.75).encode(alt.X("x:Q", title=title), color=colour, tooltip=tooltip)
    intervals = base.mark_rule(strokeWidth=1.5, color=VERMILLION).encode(alt.X("x_lo:Q", title=title), x2="x_hi:Q")
    texts = base.mark_text(align="left", dx=6).encode(alt.X("x_hi:Q", title=title), text="text:N")
    one = alt.Chart(inline_data([{"x": 1}])).mark_rule(color=GREY, strokeDash=[4, 3]).encode(x="x:Q")
    description = f"{title}, of {len(points)} variants, with 95 % intervals"
    return layered([bars, one, intervals, texts], alt.Step(20), description)


def history(points: Sequence[SeriesPoint], marks: Sequence[Mark] = ()) -> alt.LayerChart:
    """One metric over time, a line a variant (and host, where there are several), with 95 % intervals as bands."""
    if not points:
        return no_data()
    several = len({point.host for point in points}) > 1
    values = [_moment(point, several) for point in points]
    names = list(dict.fromkeys(str(value["series"]) for value in values))
    title = _history_title(points[0])
    colours = alt.Scale(domain=names, range=[SERIES[number % len(SERIES)] for number in range(len(names))])
    shapes = alt.Scale(domain=names, range=[SHAPES[number % len(SHAPES)] for number in range(len(names))])
    when = alt.X("time:T", title="time (UTC)", scale=alt.Scale(type="utc"), axis=alt.Axis(labelOverlap=True))
    value = alt.Y("value:Q", title=title, scale=alt.Scale(zero=False))
    base = alt.Chart(inline_data(values)).encode(when, color=alt.Color("series:N", title=None, scale=colours))
    band = base.mark_area(opacity=0.18).encode(alt.Y("lo:Q", title=title, scale=alt.Scale(zero=False)), y2="hi:Q")
    tooltip = ["series:N", "value:Q", "lo:Q", "hi:Q", "run:N", alt.Tooltip("time:T", format="%Y-%m-%d %H:%M")]
    symbols = base.mark_point(filled=True, size=45).encode(
        value, shape=alt.Shape("series:N", title=None, scale=shapes), tooltip=tooltip
    )
    layers = [band, base.mark_line().encode(value), symbols, *_mark_lines(marks)]
    return layered(layers, 320, f"{title} over time: {', '.join(names)}")


def _history_title(point: SeriesPoint) -> str:
    unit = f", {point.unit}" if point.unit else ""
    return AXES.get(point.metric) or f"{clean(point.metric)}{unit}"


def _moment(point: SeriesPoint, several_hosts: bool) -> dict[str, object]:
    span = _fill(point.value, point.lo, point.hi)
    series = clean(f"{point.variant} on {point.host}" if several_hosts else point.variant)
    return {**span._asdict(), "run": point.run, "time": point.time.isoformat(), "series": series}


def _mark_lines(marks: Sequence[Mark]) -> list[alt.Chart]:
    """A vertical line a mark, its text along it."""
    if not marks:
        return []
    is_change = "datum.kind === 'change'"
    values = inline_data({"time": mark.time.isoformat(), "text": clean(mark.text), "kind": mark.kind} for mark in marks)
    base = alt.Chart(values).encode(
        alt.X("time:T", scale=alt.Scale(type="utc")),
        color=alt.condition(is_change, alt.value(VERMILLION), alt.value(GREY)),
        tooltip=["kind:N", "text:N", alt.Tooltip("time:T", format="%Y-%m-%d %H:%M")],
    )
    lines = base.mark_rule(strokeWidth=1.5).encode(
        strokeDash=alt.condition(is_change, alt.value([6, 3]), alt.value([2, 2]))
    )
    texts = base.mark_text(angle=270, align="right", baseline="bottom", dx=-4, dy=-3, fontSize=10, limit=300)
    return [lines, texts.encode(y=alt.value(0), text="text:N")]


def with_theme(chart: alt.LayerChart, dark: bool = False) -> alt.LayerChart:
    """The chart with text and lines that can be read on a light or a dark page, on no background of its own."""
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
    result: alt.LayerChart = chart.properties(config=config)
    return result


def svg(chart: alt.LayerChart, background: str = "transparent") -> str:
    """The chart as SVG text, light."""
    return vl_convert.vegalite_to_svg(_spec(chart, background), allowed_base_urls=[])


def png(chart: alt.LayerChart, background: str = "white", scale: float = 2.0) -> bytes:
    """The chart as a PNG file, light, `scale` pixels to a point."""
    return vl_convert.vegalite_to_png(_spec(chart, background), scale=scale, allowed_base_urls=[])


def _spec(chart: alt.LayerChart, background: str) -> dict[str, Any]:
    coloured = with_theme(chart)
    coloured.config.background = background
    spec: dict[str, Any] = coloured.to_dict()
    return spec
