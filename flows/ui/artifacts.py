"""What a run shows in Prefect's interface: tables, what to ship, the trade-off, lineage, and progress of long work."""

from __future__ import annotations

import os
import re
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, cast
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
from slimline.dashboards.reports.recommendation import recommendations
from slimline.storage.artifacts.lineage import ancestry
from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore
from slimline.storage.metrics.store import MetricsStore
from slimline.storage.queries.results import result_rows
from slimline.storage.text import escaped_markdown
from slimline.tasks.runtime.progress import heard_by

_SECONDS_BETWEEN_UPDATES = 5.0
_DRAWN = ("tradeoff", "speedups")
_SHOWN = (
    "host",
    "variant",
    "label",
    "disk_mb",
    "memory_over_base_mb",
    "samples_per_s",
    "speed_ratio",
    "es",
    "em",
    "error",
)


def show_run(run: str, study: str, store: ArtifactStore, metrics: MetricsStore) -> None:
    """Publish a finished run: its table, what to ship, how far to trust it, the trade-off, and where all came from."""
    rows = [row for row in result_rows(metrics, run=run) if row["run"] == run]
    short = [{name: _rounded(row.get(name)) for name in _SHOWN} for row in rows]
    create_table_artifact(key=f"{study}-results", table=short, description=f"Results of {run}")
    create_markdown_artifact(key=f"{study}-table", markdown=render(rows, "md"), description=f"Every figure of {run}")
    verdict = "\n\n".join([_trust(rows), *recommendations(metrics, run, "md")])
    create_markdown_artifact(key=f"{study}-recommendation", markdown=verdict, description=f"What to ship, by {run}")
    lineage = _lineage(rows, store)
    create_markdown_artifact(key=f"{study}-lineage", markdown=lineage, description=f"What was made from what in {run}")
    for host in dict.fromkeys(str(row["host"]) for row in rows):
        for name, caption, url in _pictures([row for row in rows if row["host"] == host]):
            create_image_artifact(url, key=_key(f"{study}-{name}-{host}"), description=f"{host} in {run}: {caption}")
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


def _rounded(value: object) -> object:
    return round(value, 3) if isinstance(value, float) else value


def _pictures(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Name, caption and a URL that needs no server, of what one host's rows can be drawn as."""
    from slimline.dashboards.reports.charts import (
        svg,  # Altair is imported by the run that draws, not by all that measure
    )
    from slimline.dashboards.reports.figures import pictures

    for picture in pictures(rows):
        if picture.name in _DRAWN:
            content = b64encode(svg(picture.chart, background="white").encode()).decode()
            yield picture.name, picture.caption, f"data:image/svg+xml;base64,{content}"


def _trust(rows: Sequence[Mapping[str, Any]]) -> str:
    """The noise floor of each host, in words."""
    floors = {str(row["host"]): (row["noise_floor"], row["tainted"]) for row in rows}
    return "\n".join(_trusted(host, floor, tainted) for host, (floor, tainted) in floors.items())


def _trusted(host: str, floor: float | None, tainted: bool | None) -> str:
    name = escaped_markdown(host)
    if floor is None:
        return f"- **{name}**: the noise floor is unknown, so its speeds prove nothing."
    doubt = "**tainted**: smaller differences in speed mean nothing" if tainted else "trustworthy above that"
    return f"- **{name}**: the baseline differs from itself by {100 * floor:.1f} % (noise floor); {doubt}."


def _lineage(rows: Sequence[Mapping[str, Any]], store: ArtifactStore) -> str:
    """Every artifact behind the rows, after what it was made from."""
    published = {ref.digest: ref for ref in store.list()}
    measured: dict[ArtifactRef, dict[str, None]] = {}
    for row in rows:
        if ref := published.get(str(row["artifact"])):
            measured.setdefault(ref, {})[str(row["variant"])] = None
    lines = ["| artifact | made by | from | is | MB | seconds | when |", "|---|---|---|---|---:|---:|---|"]
    behind = ancestry(measured, store)
    return "\n".join([*lines, *(_described(ref, list(measured.get(ref, ())), store) for ref in behind)])


def _described(ref: ArtifactRef, variants: Sequence[str], store: ArtifactStore) -> str:
    provenance, size = store.provenance(ref), store.summary(ref).size / 1e6
    parents = ", ".join(f"`{parent}`" for parent in provenance.inputs)
    named = ", ".join(escaped_markdown(variant) for variant in variants)
    cells = [f"`{ref}`", str(provenance.step["step"]), parents, named, f"{size:.2f}", f"{provenance.seconds:.1f}"]
    return f"| {' | '.join(cells)} | {provenance.created:%Y-%m-%d %H:%M} |"


@contextmanager
def shown_progress(key: str) -> Iterator[None]:
    """Meanwhile Prefect shows, as one progress artifact, how far the long work in here has come."""
    with heard_by(_ProgressArtifact(key)):
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
