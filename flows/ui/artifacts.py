"""What a run shows in Prefect's interface: tables, what to ship, the trade-off, lineage, and progress of long work."""

from __future__ import annotations

import os
import re
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from typing import cast
from urllib.parse import urlencode
from uuid import UUID

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from slimline.dashboards.reports.formats import render
from slimline.dashboards.reports.lineage import Origin, origins
from slimline.dashboards.reports.recommendation import HostResults, render_recommendation
from slimline.dashboards.reports.text_tables import markdown_table
from slimline.storage.artifacts.store import ArtifactStore
from slimline.storage.queries.results import ResultRow
from slimline.storage.text import escaped_markdown
from slimline.tasks.runtime.progress import progress_listener

_SECONDS_BETWEEN_UPDATES = 5.0
_PICTURES = ("tradeoff", "speedups")
_TABLE_METRICS = ("disk_mb", "memory_over_base_mb", "samples_per_s", "speed_ratio", "es", "em")


def show_run(run: str, study: str, found: Sequence[HostResults], store: ArtifactStore) -> None:
    """Publish a finished run: its table, what to ship, how far to trust it, the trade-off, and where all came from."""
    rows = [row for each in found for row in each.rows]
    create_table_artifact(
        key=f"{study}-results", table=[_table_row(row) for row in rows], description=f"Results of {run}"
    )
    create_markdown_artifact(key=f"{study}-table", markdown=render(rows, "md"), description=f"Every figure of {run}")
    trust = "\n".join(_trust(each.rows[0]) for each in found)
    verdict = "\n\n".join([trust, *(render_recommendation(each.recommendation, "md") for each in found)])
    create_markdown_artifact(key=f"{study}-recommendation", markdown=verdict, description=f"What to ship, by {run}")
    lineage = _lineage(rows, store)
    create_markdown_artifact(key=f"{study}-lineage", markdown=lineage, description=f"What was made from what in {run}")
    for each in found:
        for name, caption, url in _pictures(each):
            key = _key(f"{study}-{name}-{each.host}")
            create_image_artifact(url, key=key, description=f"{each.host} in {run}: {caption}")
    for page, what in {"": "dashboard", "report": "report"}.items():
        create_link_artifact(
            dashboard_link(run, page),
            link_text=f"{run}: {what}",
            key=f"{study}-{what}",
            description="`slimline dashboard` serves it.",
        )


def dashboard_link(run: str, page: str = "") -> str:
    """Where the dashboard shows a run: SLIMLINE_DASHBOARD_URL says where that is."""
    return f"{os.environ.get('SLIMLINE_DASHBOARD_URL', 'http://127.0.0.1:8501')}/{page}?{urlencode({'run': run})}"


def _key(text: str) -> str:
    """What Prefect takes as an artifact's key."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _table_row(row: ResultRow) -> dict[str, object]:
    """The columns that fit a table in Prefect's interface."""
    figures = {metric: row.value(metric) for metric in _TABLE_METRICS}
    rounded = {metric: None if value is None else round(value, 3) for metric, value in figures.items()}
    return {"host": row.host, "variant": row.variant, "label": row.label, **rounded, "error": row.error}


def _pictures(found: HostResults) -> Iterator[tuple[str, str, str]]:
    """Name, caption and a URL that needs no server, of the pictures of one host."""
    from slimline.dashboards.reports.charts import svg  # imports Altair, which a run that only measures need not
    from slimline.dashboards.reports.figures import pictures

    for picture in pictures(found.rows, found.recommendation):
        if picture.name in _PICTURES:
            content = b64encode(svg(picture.chart, background="white").encode()).decode()
            yield picture.name, picture.caption, f"data:image/svg+xml;base64,{content}"


def _trust(row: ResultRow) -> str:
    """The noise floor of a row's host, in words."""
    name = escaped_markdown(row.host)
    if row.noise_floor is None:
        return f"- **{name}**: the noise floor is unknown, so its speeds prove nothing."
    doubt = "**tainted**: smaller differences in speed mean nothing" if row.tainted else "trustworthy above that"
    return f"- **{name}**: the baseline differs from itself by {100 * row.noise_floor:.1f} % (noise floor); {doubt}."


def _lineage(rows: Sequence[ResultRow], store: ArtifactStore) -> str:
    """A table of every artifact behind the rows, each after what it was made from."""
    head = ["artifact", "made by", "from", "is", "MB", "seconds", "when"]
    rule = ["---", "---", "---", "---", "---:", "---:", "---"]
    return markdown_table(head, map(_origin_cells, origins(rows, store)), rule)


def _origin_cells(origin: Origin) -> list[str]:
    provenance = origin.provenance
    parents = ", ".join(f"`{parent}`" for parent in provenance.inputs)
    variants = ", ".join(map(escaped_markdown, origin.variants))
    figures = [f"{origin.size_mb:.2f}", f"{provenance.seconds:.1f}", f"{provenance.created:%Y-%m-%d %H:%M}"]
    return [f"`{origin.ref}`", origin.step, parents, variants, *figures]


@contextmanager
def show_progress(key: str) -> Iterator[None]:
    """Show in Prefect, as one progress artifact, how far the long work within this context has come."""
    with progress_listener(_ProgressArtifact(key)):
        yield


class _ProgressArtifact:
    """Updates are rare: each one is a request, and work that is measured must not wait for it."""

    def __init__(self, key: str) -> None:
        self._key = _key(key)
        self._context = copy_context()  # the flow's: a bar may speak from a thread that has none
        self._lock = threading.Lock()
        self._artifact: UUID | None = None
        self._shown = 0.0

    def __call__(self, doing: str, share: float) -> None:
        with self._lock:
            now = time.monotonic()
            if now - self._shown < _SECONDS_BETWEEN_UPDATES:
                return
            self._shown = now
            self._context.run(self._show, doing, min(100.0, 100 * share))

    def _show(self, doing: str, percent: float) -> None:
        if self._artifact is None:
            made = create_progress_artifact(percent, key=self._key, description=doing)
            self._artifact = cast(UUID, made)  # Prefect types its blocking functions as if they might not block
        else:
            update_progress_artifact(self._artifact, percent, description=doing)
