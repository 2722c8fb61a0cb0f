"""The page History: a metric over time, where it changed, and which libraries did."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import altair as alt
import streamlit as st

from slimline.dashboards.app import data
from slimline.dashboards.app.components import selection
from slimline.dashboards.app.data import Row
from slimline.dashboards.app.views import results
from slimline.dashboards.reports import charts

CHOSEN = "chosen"
MOST_POINTS = 60
"""Of one line: more cannot be told apart on a screen, so that each then stands for several runs."""
# White on the dark theme's primary colour could hardly be read.
TAGS = "<style>.st-key-variants [data-tag] { background-color: #005A8C; }</style>"
NO_HISTORY = "Nothing of this study has been measured yet."

SERIES = """
    SELECT host, variant, metric FROM measurements WHERE study = ? AND value IS NOT NULL
    GROUP BY ALL ORDER BY bool_or(label = 'baseline') DESC, variant, metric, host
"""
# What has another definition does not compare. Of neighbours that share a point the median is drawn.
POINTS = """
    WITH numbered AS (
        SELECT *,
            row_number() OVER (PARTITION BY variant ORDER BY time, run) - 1 AS place,
            count(*) OVER (PARTITION BY variant) AS runs
        FROM (
            FROM history WHERE study = ? AND host = ? AND metric = ? AND list_contains(?, variant)
            QUALIFY metric_version IS NOT DISTINCT FROM max(metric_version) OVER ()
        )
    )
    SELECT variant, host, metric, max(time) AS time, arg_max(run, time) AS run, median(value) AS value,
        median(lo) AS lo, median(hi) AS hi, any_value(unit) AS unit, count(*) AS runs,
        arg_max(relative_change, time) AS relative_change, bool_or(tainted) AS tainted
    FROM numbered GROUP BY variant, host, metric, place * least(runs, ?) // runs
    ORDER BY variant, time
"""
VERSIONS = """
    SELECT min(started) AS time, run, any_value(versions) AS versions
    FROM runs WHERE study = ? AND host = ? AND versions IS NOT NULL GROUP BY run ORDER BY time, run
"""
CHANGES = """
    SELECT change_time AS time, change_point AS run, variant, arg_max(verdict, time) AS verdict,
        arg_max(ratio, time) AS ratio, arg_max(reason, time) AS reason
    FROM verdicts WHERE study = ? AND host = ? AND metric = ? AND list_contains(?, variant) AND change_time IS NOT NULL
    GROUP BY ALL ORDER BY time
"""


def page() -> None:
    """Draw it."""
    st.title("History")
    study = selection.choose_study()
    series = data.ask(SERIES, study)
    if not series:
        selection.empty(NO_HISTORY)
    host = selection.choose_host(selection.hosts_of(series))
    metric, variants = _what([row for row in series if row["host"] == host])
    if not variants:
        selection.empty("Choose a variant.")
    rows = data.ask(POINTS, study, host, metric, variants, MOST_POINTS)
    upgraded = upgrades(data.ask(VERSIONS, study, host))
    changed = _changes(study, host, metric, variants)
    chart = _choosable(charts.history(rows, [*changed, *upgraded]))
    _open_run(chart.draw(chart, key="history", choosable=CHOSEN), rows, study)
    _tables(rows, changed, upgraded)


def _what(series: Sequence[Row]) -> tuple[str, list[str]]:
    metrics = sorted({row["metric"] for row in series})
    default = metrics.index("samples_per_s") if "samples_per_s" in metrics else 0
    st.html(TAGS)
    with st.container(horizontal=True):
        metric = st.selectbox("Metric", metrics, default, key="metric", bind=selection.IN_ADDRESS)
        variants = list(dict.fromkeys(row["variant"] for row in series if row["metric"] == metric))
        chosen = st.multiselect("Variants", variants, variants[:3], key="variants", bind=selection.IN_ADDRESS)
    return metric, chosen


def upgrades(runs: Sequence[Row]) -> list[Row]:
    """Where a library's version differs from the run before: marks for charts.history, rows as VERSIONS gives them."""
    found = []
    for before, after in pairwise(runs):
        old, new = json.loads(before["versions"]), json.loads(after["versions"])
        changed = [f"{name} {old[name]} → {new[name]}" for name in sorted(old.keys() & new) if old[name] != new[name]]
        if changed:
            found.append({"time": after["time"], "text": ", ".join(changed), "kind": "upgrade", "run": after["run"]})
    return found


def _changes(study: str, host: str, metric: str, variants: Sequence[str]) -> list[Row]:
    """Change points that nightly runs have found, as marks for charts.history."""
    found = data.ask(CHANGES, study, host, metric, variants)
    return [{**row, "text": f"{row['variant']}: {row['verdict']}", "kind": "change"} for row in found]


def _choosable(chart: alt.LayerChart) -> alt.LayerChart:
    """The chart with points that can be clicked."""
    points = next((layer for layer in chart.layer if getattr(layer.mark, "type", None) == "point"), None)
    if points is not None:
        points.params = [alt.selection_point(name=CHOSEN, fields=["run"]).param]
    return chart


def _open_run(event: Any, rows: Sequence[Row], study: str) -> None:
    """A link to the run that was clicked in the chart, or chosen from the list."""
    clicked = [point["run"] for point in event["selection"].get(CHOSEN, [])] if event else []
    runs = list(dict.fromkeys(row["run"] for row in sorted(rows, key=lambda row: row["time"], reverse=True)))
    if not runs:
        return
    index = runs.index(clicked[0]) if clicked and clicked[0] in runs else 0
    run = st.selectbox("A run: click a point, or choose it here", runs, index)
    st.page_link(results.page_link(), label=f"Open the results of {run}", query_params={"study": study, "run": run})


def _tables(rows: Sequence[Row], changed: Sequence[Row], upgraded: Sequence[Row]) -> None:
    st.header("Change points")
    if changed:
        st.dataframe(changed, hide_index=True, column_order=["time", "run", "variant", "verdict", "ratio", "reason"])
    else:
        st.caption("None is known of these. The nightly flow finds them.")
    st.header("Library upgrades")
    if upgraded:
        st.dataframe(upgraded, hide_index=True, column_order=["time", "run", "text"])
    else:
        st.caption("None between these runs.")
    with st.expander("The figures"):
        st.dataframe(list(rows), hide_index=True)
