"""The page Trade-offs: quality against speed and size, what keeps the constraints, and which variant to ship."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import streamlit as st

from slimline.dashboards.app.components import chart, selection
from slimline.dashboards.reports import charts
from slimline.dashboards.reports.axes import AXES
from slimline.dashboards.reports.recommendation import render_recommendation
from slimline.storage.queries.results import ResultRow
from slimline.tasks.analysis.recommendation import DEFAULT, Constraints, Recommendation, recommend

# By the names that the page's address has for them.
COSTS = {
    "speed": "samples_per_s",
    "memory": "memory_mb",
    "memory over base": "memory_over_base_mb",
    "disk": "disk_mb",
    "energy": "energy_j_per_sample",
}
QUALITIES = {"ES": "es", "EM": "em"}
STEPS = 50


class Bound(NamedTuple):
    """A slider: the constraint that it sets, what it says, and the metric whose figures are its range."""

    constraint: str
    label: str
    metric: str


BOUNDS = (
    Bound("max_es_drop", "ES drop at most, points", "es_drop"),
    Bound("max_em_drop", "EM drop at most, points", "em_drop"),
    Bound("max_memory_mb", "Memory at most, MB", "memory_mb"),
    Bound("max_disk_mb", "Disk at most, MB", "disk_mb"),
    Bound("min_samples_per_s", "Speed at least, samples/s", "samples_per_s"),
)


def page() -> None:
    """Draw it."""
    st.title("Trade-offs")
    found = selection.results_of(selection.choose_run())
    host = selection.choose_host(row.host for row in found)
    rows = [row for row in found if row.host == host]
    x, y = _axes()
    st.header("Constraints")
    st.caption("A slider at its loosest end excludes nothing.")
    verdict = recommend(rows, Constraints(**_bounds(rows)))
    _say_winner(verdict)
    excluded = [candidate.variant for candidate in verdict.candidates if candidate.unkept]
    if all(row.value(x) is None for row in rows):
        st.info(f"{host} has no figures for: {AXES[x]}.")
    else:
        chart.draw(charts.tradeoff(rows, x, y, excluded, verdict.winner), key="tradeoff")
    with st.expander("Why: the frontier, and why each other variant loses"):
        st.markdown(render_recommendation(verdict, "md"))


def _axes() -> tuple[str, str]:
    with st.container(horizontal=True):
        x: str = st.selectbox("Against", list(COSTS), key="x", bind=selection.IN_ADDRESS)
        y: str = st.selectbox("Quality", list(QUALITIES), key="y", bind=selection.IN_ADDRESS)
    return COSTS[x], QUALITIES[y]


def _bounds(rows: Sequence[ResultRow]) -> dict[str, float]:
    """The constraints that the sliders set."""
    found: dict[str, float] = {}
    columns = st.columns(len(BOUNDS))
    for bound, column in zip(BOUNDS, columns, strict=True):
        with column:
            value = _slider(bound, rows)
        if value is not None:
            found[bound.constraint] = value
    return found


def _slider(bound: Bound, rows: Sequence[ResultRow]) -> float | None:
    """The value of a slider over the metric's figures; null where it excludes nothing, or without any figures."""
    figures = [row.figure(bound.metric) for row in rows]
    ends = [end for figure in figures for end in (figure.value, figure.lo, figure.hi) if end is not None]
    if not ends:
        st.caption(f"{bound.label}: not measured")
        return None
    lower, upper, step = slider_range(0.0, max(ends))
    loosest = lower if bound.constraint.startswith("min_") else upper
    default = DEFAULT.bounds().get(bound.constraint)
    value = st.slider(
        bound.label,
        lower,
        upper,
        loosest if default is None else min(default, upper),
        step,
        format="%g",
        key=bound.constraint,
        bind=selection.IN_ADDRESS,
    )
    # Without any constraint the default ones hold, so these are always given.
    return None if value == loosest and default is None else value


def slider_range(least: float, greatest: float) -> tuple[float, float, float]:
    """Ends and step of a slider that reaches over both figures, in round numbers."""
    spread = max(greatest - least, 1.0)
    step = 10.0 ** math.floor(math.log10(spread / STEPS))
    step *= next(factor for factor in (1, 2, 5, 10) if spread / (step * factor) <= STEPS)
    lower, upper = math.floor(least / step), math.floor(greatest / step) + 1
    return round(lower * step, 10), round(max(upper * step, lower * step + step), 10), step


def _say_winner(verdict: Recommendation) -> None:
    if verdict.winner is None:
        st.warning(f"Ship none: {verdict.rule}.")
    elif verdict.provisional:
        st.warning(f"Provisional, as {verdict.provisional}: ship **{verdict.winner}**: {verdict.rule}.")
    else:
        st.success(f"Ship **{verdict.winner}**: {verdict.rule}.")
