"""The meaning of the columns of views that no table has, or that mean something else in a table."""

from __future__ import annotations

EVERYWHERE = {
    "speed_ratio": "How many times as fast as the baseline, at equal work.",
    "line_speed_ratio": "Samples per second until lines end, relative to the baseline's.",
    "first_measured": "When the variant's first metric was written; the order of the study.",
    "first_written": "The order of writing, among those of the same time.",
    "figures": "The metrics by name, each with value, lo and hi: `figures['es'].value`.",
    "on_frontier": "Whether no other variant of its run and host is as good in everything and better in something.",
    "published_host": "The publication's host, of the same variant; null where it has none.",
    "disk_ratio": "Size in a gzip archive relative to the baseline's.",
    "previous_run": "The previous run of the same series.",
    "previous_value": "The value of that run.",
    "change": "value - previous_value, in the same unit.",
    "relative_change": "change / previous_value.",
    "baseline_self_ratio": "The baseline's second process relative to its first in the round.",
    "undisturbed_ratio": "speed_ratio by every sample's fastest pass; null where it is at equal work.",
    "undisturbed_self_ratio": "baseline_self_ratio by every sample's fastest pass; null as above.",
    "state": "open, or recovered.",
    "recovered_run": "The run with the improvement that undid it.",
    "recovered_time": "When that run was judged.",
}
_PUBLISHED = (
    *("disk_mb", "disk_gzip_mb", "disk_ratio", "memory_mb", "samples_per_s", "line_speed_ratio", "es", "es_drop", "em"),
    *("em_drop", "params_m", "params_nonzero_m"),
)
EVERYWHERE |= {f"published_{name}": f"The published {name}." for name in _PUBLISHED}
IN_VIEW = {
    "paired_rounds": {
        "started": "When the first of its processes in the round started.",
        "samples": "Samples timed.",
        "memory_over_base_mb": "Peak over the process before the model, mean of its processes, 10^6 bytes.",
    }
}


def view_column(view: str, name: str) -> str | None:
    """What a column of a view means; None if it is what the table it comes from says."""
    return IN_VIEW.get(view, {}).get(name) or EVERYWHERE.get(name)
