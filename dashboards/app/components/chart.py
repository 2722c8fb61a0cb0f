"""Charts on a page, in its light or its dark."""

from __future__ import annotations

from typing import Any

import altair as alt
import streamlit as st

from slimline.dashboards.reports.charts import themed


def draw(chart: alt.LayerChart, key: str, choosable: str | None = None) -> Any:
    """Draw a chart of `reports.charts`; `choosable` names the selection whose clicks the page hears of."""
    shown = themed(chart, dark=st.context.theme.type == "dark")
    if choosable is None:
        st.altair_chart(shown, theme=None, key=key)
        return None
    return st.altair_chart(shown, theme=None, key=key, on_select="rerun", selection_mode=choosable)
