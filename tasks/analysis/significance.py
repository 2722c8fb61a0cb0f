"""What stands out in a result table: the best figure of a column, and what surely differs from the baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]

QUALITY = ("es", "em")
MORE_IS_BETTER = ("samples_per_s", "speed_ratio", *QUALITY, "greedy_agreement", "matmuls")
LESS_IS_BETTER = ("disk_mb", "disk_gzip_mb", "memory_mb", "memory_over_base_mb", "params_m", "params_nonzero_m")
SURE_BELOW = 0.05  # of McNemar's p value
MEANING = (
    "bold: the best of its column; *: surely differs from the baseline (the 95 % interval of the paired speed ratio "
    "leaves out 1, that of the paired ES drop 0, or McNemar's p for EM is below 0.05)"
)


def best_of(rows: Rows, key: str) -> float | None:
    """The best figure of a column, if it has several: of one there is none better, of equals neither."""
    shown = [row for row in rows if not row["error"] and not (key in QUALITY and row["random_weights"])]
    figures = {float(row[key]) for row in shown if row[key] is not None}
    better: Callable[..., float] | None = max if key in MORE_IS_BETTER else min if key in LESS_IS_BETTER else None
    return better(figures) if better and len(figures) > 1 else None


def surely_differs(row: Mapping[str, Any], key: str) -> bool:
    """Whether a variant's speed, ES or EM is told apart from its baseline's; see MEANING."""
    if row["variant"] == row["baseline"]:
        return False
    if key == "em":
        p_value = row["em_p_value"]
        return p_value is not None and float(p_value) < SURE_BELOW
    paired, none = {"speed_ratio": ("speed_ratio", 1.0), "es": ("es_drop", 0.0)}.get(key, (None, 0.0))
    if paired is None or row[f"{paired}_lo"] is None or row[f"{paired}_hi"] is None:
        return False
    return not row[f"{paired}_lo"] <= none <= row[f"{paired}_hi"]
