"""Charts on a page, in the colours of its light or dark theme."""

from __future__ import annotations

import altair as alt
import streamlit as st

from slimline.dashboards.reports.charts import with_theme


def draw(chart: alt.LayerChart, key: str) -> None:
    """Draw a chart of `reports.charts`."""
    st.altair_chart(_with_theme(chart), theme=None, key=key)


def draw_with_selection(chart: alt.LayerChart, key: str, selection: str, field: str) -> list[str]:
    """Draw a chart whose points can be clicked; a click runs the page again.

    Args:
        chart: the chart.
        key: the name of the element.
        selection: the name of the selection in the chart.
        field: the field of the points that it selects.

    Returns:
        The values of `field` of the points that are selected.
    """
    event = st.altair_chart(_with_theme(chart), theme=None, key=key, on_select="rerun", selection_mode=selection)
    return [point[field] for point in event["selection"].get(selection, [])] if event else []


def _with_theme(chart: alt.LayerChart) -> alt.LayerChart:
    return with_theme(chart, dark=st.context.theme.type == "dark")
