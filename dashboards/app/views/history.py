"""The page History: a metric over time, where it changed, and which libraries did."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import altair as alt
import streamlit as st

from slimline.dashboards.app import data
from slimline.dashboards.app.components import chart, selection
from slimline.dashboards.app.views import results
from slimline.dashboards.reports import charts
from slimline.storage.queries.series import (
    ChangePoint,
    RunVersions,
    Series,
    SeriesPoint,
    change_points,
    run_versions,
    series_points,
    study_series,
)

CLICKS = "chosen"
MOST_POINTS = 60
"""Of one line: more cannot be told apart on a screen, so a point is the median of several runs."""
# White on the dark theme's primary colour could hardly be read.
TAGS = "<style>.st-key-variants [data-tag] { background-color: #005A8C; }</style>"
NO_HISTORY = "Nothing of this study has been measured yet."


class Upgrade(NamedTuple):
    """A run before which the version of a library changed, with what changed."""

    run: RunVersions
    text: str


def page() -> None:
    """Draw it."""
    st.title("History")
    study = selection.choose_study()
    series = data.ask(study_series, study)
    if not series:
        selection.end_page(NO_HISTORY)
    host = selection.choose_host(each.host for each in series)
    metric, variants = _choose_series([each for each in series if each.host == host])
    if not variants:
        selection.end_page("Choose a variant.")
    points = data.ask(series_points, study, host, metric, variants, MOST_POINTS)
    found = upgrades(data.ask(run_versions, study, host))
    changes = data.ask(change_points, study, host, metric, variants)
    drawing = _clickable(charts.history(points, [*map(_change_mark, changes), *map(_upgrade_mark, found)]))
    _open_run(chart.draw_with_selection(drawing, "history", CLICKS, "run"), points, study)
    _tables(points, changes, found)


def _choose_series(series: Sequence[Series]) -> tuple[str, list[str]]:
    """A metric, and variants that have it."""
    metrics = sorted({each.metric for each in series})
    default = metrics.index("samples_per_s") if "samples_per_s" in metrics else 0
    st.html(TAGS)
    with st.container(horizontal=True):
        metric = st.selectbox("Metric", metrics, default, key="metric", bind=selection.IN_ADDRESS)
        variants = list(dict.fromkeys(each.variant for each in series if each.metric == metric))
        chosen = st.multiselect("Variants", variants, variants[:3], key="variants", bind=selection.IN_ADDRESS)
    return metric, chosen


def upgrades(runs: Sequence[RunVersions]) -> list[Upgrade]:
    """Where the version of a library differs from that of the run before."""
    found = []
    for before, after in pairwise(runs):
        old, new = before.versions, after.versions
        changes = [f"{name} {old[name]} → {new[name]}" for name in sorted(old.keys() & new) if old[name] != new[name]]
        if changes:
            found.append(Upgrade(after, ", ".join(changes)))
    return found


def _change_mark(change: ChangePoint) -> charts.Mark:
    return charts.Mark(change.time, f"{change.variant}: {change.verdict}", "change")


def _upgrade_mark(upgrade: Upgrade) -> charts.Mark:
    return charts.Mark(upgrade.run.time, upgrade.text, "upgrade")


def _clickable(drawing: alt.LayerChart) -> alt.LayerChart:
    """The chart with points that can be clicked."""
    points = next((layer for layer in drawing.layer if getattr(layer.mark, "type", None) == "point"), None)
    if points is not None:
        points.params = [alt.selection_point(name=CLICKS, fields=["run"]).param]
    return drawing


def _open_run(clicked: Sequence[str], points: Sequence[SeriesPoint], study: str) -> None:
    """A link to the run that was clicked in the chart, or chosen from the list."""
    runs = list(dict.fromkeys(point.run for point in sorted(points, key=lambda point: point.time, reverse=True)))
    if not runs:
        return
    index = runs.index(clicked[0]) if clicked and clicked[0] in runs else 0
    run = st.selectbox("A run: click a point, or choose it here", runs, index)
    st.page_link(results.page_link(), label=f"Open the results of {run}", query_params={"study": study, "run": run})


def _tables(points: Sequence[SeriesPoint], changes: Sequence[ChangePoint], found: Sequence[Upgrade]) -> None:
    st.header("Change points")
    if changes:
        st.dataframe([change.model_dump() for change in changes], hide_index=True)
    else:
        st.caption("None is known of these. The nightly flow finds them.")
    st.header("Library upgrades")
    if found:
        lines = [{"time": each.run.time, "run": each.run.run, "text": each.text} for each in found]
        st.dataframe(lines, hide_index=True)
    else:
        st.caption("None between these runs.")
    with st.expander("The figures"):
        st.dataframe([point.model_dump() for point in points], hide_index=True)
