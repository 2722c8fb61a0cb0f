"""The pictures of a run: which charts it has on each host, and those and its tables as files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from slimline.dashboards.reports.charts import AXES, drawable, png, speedups, svg, tradeoff
from slimline.dashboards.reports.formats import render
from slimline.tasks.analysis.recommendation import recommend

if TYPE_CHECKING:
    import altair as alt

Rows = Sequence[Mapping[str, Any]]

# File name, and what is drawn over what.
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


def hosts_of(rows: Rows) -> dict[str, Rows]:
    """The rows of each host, in their order."""
    return {host: [row for row in rows if row["host"] == host] for host in dict.fromkeys(row["host"] for row in rows)}


def pictures(rows: Rows) -> list[Picture]:
    """What one run on one host can be drawn as: the trade-offs whose figures it has, and its speeds."""
    found = recommend(rows)
    excluded = [each.variant for each in found.candidates if each.unkept]
    drawn = [
        Picture(name, _caption(x, y), tradeoff(rows, x, y, excluded, found.winner))
        for name, (x, y) in TRADEOFFS.items()
        if drawable(rows, x, y)
    ]
    if drawable(rows, "speed_ratio", "samples_per_s"):
        caption = "Speed of each variant, times that of the baseline in the same round, with 95 % intervals."
        drawn.append(Picture("speedups", caption, speedups(rows)))
    return drawn


def _caption(x: str, y: str) -> str:
    what = f"{AXES[y].title} against {AXES[x].title}"
    line = "the line is the Pareto frontier of these two among the variants that keep the constraints"
    return f"{what[0].upper()}{what[1:]}. Bars are 95 % intervals; {line}."


def write_pictures(rows: Rows, directory: Path) -> list[Path]:
    """Every picture of a run as SVG and PNG, and its table as LaTeX and Markdown; the files' paths.

    With several hosts, a host's name stands in the names of its files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    hosts = hosts_of(rows)
    for host, its_rows in hosts.items():
        suffix = f"-{_file_name(host)}" if len(hosts) > 1 else ""
        files: dict[str, bytes] = {
            f"results{suffix}.tex": render(its_rows, "latex").encode(),
            f"results{suffix}.md": render(its_rows, "md").encode(),
        }
        for picture in pictures(its_rows):
            files[f"{picture.name}{suffix}.svg"] = svg(picture.chart, background="white").encode()
            files[f"{picture.name}{suffix}.png"] = png(picture.chart)
        for name, content in files.items():
            (directory / name).write_bytes(content)
            written.append(directory / name)
    return written


def _file_name(host: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", host).strip("-.") or "host"
