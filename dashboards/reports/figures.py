"""The pictures of a run: which charts it has on each host, and those and its tables as files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from slimline.dashboards.reports.axes import AXES
from slimline.dashboards.reports.charts import has_points, png, speedups, svg, tradeoff
from slimline.dashboards.reports.formats import render
from slimline.dashboards.reports.lineage import origins
from slimline.dashboards.reports.overview import has_overview, overview
from slimline.dashboards.reports.recommendation import HostResults, results_by_host
from slimline.dashboards.reports.sensitivity import analyses, sensitivity_chart
from slimline.storage.artifacts.store import ArtifactStore
from slimline.storage.fs import replace_file
from slimline.storage.queries.results import ResultRow
from slimline.storage.text import clean
from slimline.tasks.analysis.recommendation import Recommendation

if TYPE_CHECKING:
    import altair as alt

# By file name, the metrics of the axes x and y.
TRADEOFFS = {
    "tradeoff": ("samples_per_s", "es"),
    "tradeoff-disk": ("disk_mb", "es"),
    "tradeoff-memory": ("memory_over_base_mb", "es"),
    "tradeoff-energy": ("energy_j_per_sample", "es"),
    "speed-disk": ("samples_per_s", "disk_mb"),
    "speed-memory": ("samples_per_s", "memory_over_base_mb"),
}


class Picture(NamedTuple):
    """A chart with the name of its file and what it shows, in a sentence."""

    name: str
    caption: str
    chart: alt.LayerChart


def pictures(rows: Sequence[ResultRow], found: Recommendation) -> list[Picture]:
    """The pictures of one run on one host: the trade-offs whose figures it has, and its speeds.

    Args:
        rows: the variants.
        found: what is recommended of them: the pictures show it.
    """
    excluded = [each.variant for each in found.candidates if each.unkept]
    charts = [
        Picture(name, _caption(x, y), tradeoff(rows, x, y, excluded, found.winner))
        for name, (x, y) in TRADEOFFS.items()
        if has_points(rows, x, y)
    ]
    if has_overview(rows):
        caption = "How many times as fast each variant is, how its ES changes, and how large it is on disk."
        charts.insert(0, Picture("overview", caption, overview(rows, found.winner)))
    if has_points(rows, "speed_ratio", "samples_per_s"):
        caption = "Speed of each variant at equal work, times that of the baseline beside it, with 95 % intervals."
        charts.append(Picture("speedups", caption, speedups(rows)))
    return charts


def _caption(x: str, y: str) -> str:
    what = f"{AXES[y]} against {AXES[x]}"
    line = "the line is the Pareto frontier of these two among the variants that keep the constraints"
    return f"{what[0].upper()}{what[1:]}. Bars are 95 % intervals; {line}."


def sensitivity_pictures(rows: Sequence[ResultRow], artifacts: ArtifactStore) -> list[Picture]:
    """The pictures of what each tensor costs in 8 bits, of the artifacts for which that was measured."""
    return [
        Picture(
            f"sensitivity-{_file_name(analysis.variants[0])}",
            f"What each tensor of {', '.join(map(clean, analysis.variants))} costs in 8 bits, and what it got.",
            sensitivity_chart(analysis),
        )
        for analysis in analyses(origins(rows, artifacts))
    ]


def write_pictures(rows: Sequence[ResultRow], artifacts: ArtifactStore, directory: Path) -> list[Path]:
    """Write every picture of a run as SVG and PNG, and its table as LaTeX and Markdown.

    With several hosts, each file's name has its host's.

    Args:
        rows: The result rows of the run.
        artifacts: What was built.
        directory: Where they are written.

    Returns:
        The files' paths.
    """
    directory.mkdir(parents=True, exist_ok=True)
    hosts = results_by_host(rows)
    files = _as_files(sensitivity_pictures(rows, artifacts))
    for found in hosts:
        files = _files(found, f"-{_file_name(found.host)}" if len(hosts) > 1 else "") | files
    for name, content in files.items():
        replace_file(directory / name, content)
    return [directory / name for name in files]


def _files(found: HostResults, suffix: str) -> dict[str, bytes]:
    """The files of one host by name."""
    files = {
        f"results{suffix}.{end}": render(found.rows, form).encode() for end, form in (("tex", "latex"), ("md", "md"))
    }
    return files | _as_files(pictures(found.rows, found.recommendation), suffix)


def _as_files(pictures: Sequence[Picture], suffix: str = "") -> dict[str, bytes]:
    """Pictures as SVG and PNG, by the names of their files."""
    files: dict[str, bytes] = {}
    for picture in pictures:
        files[f"{picture.name}{suffix}.svg"] = svg(picture.chart, background="white").encode()
        files[f"{picture.name}{suffix}.png"] = png(picture.chart)
    return files


def _file_name(host: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", host).strip("-.") or "host"
