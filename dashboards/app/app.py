"""The script that Streamlit runs for every view of a page."""

from __future__ import annotations

from slimline.dashboards.app.navigation import show

show()
