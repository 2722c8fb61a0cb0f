"""Buttons that save what a page shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import streamlit as st


class Form(NamedTuple):
    """A file format: what the button says, how its files end, and its media type."""

    label: str
    suffix: str
    mime: str


FORMS = {
    "csv": Form("CSV", "csv", "text/csv"),
    "parquet": Form("Parquet", "parquet", "application/vnd.apache.parquet"),
    "json": Form("JSON", "json", "application/json"),
    "md": Form("Markdown", "md", "text/markdown"),
    "html": Form("HTML", "html", "text/html"),
    "latex": Form("LaTeX", "tex", "application/x-tex"),
}


def draw_downloads(name: str, contents: Mapping[str, Callable[[], str | bytes]]) -> None:
    """Draw a button for each form in FORMS of these contents; it makes its file when it is pressed."""
    with st.container(horizontal=True, gap="small"):
        for form, content in contents.items():
            st.download_button(
                FORMS[form].label,
                data=content,
                file_name=f"{name}.{FORMS[form].suffix}",
                mime=FORMS[form].mime,
                on_click="ignore",
                key=f"save-{form}",
                icon=":material/download:",
            )
