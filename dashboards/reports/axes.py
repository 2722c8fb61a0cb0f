"""Axes of charts: their titles, and which range of values they have."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

import altair as alt

AXES = {
    "samples_per_s": "speed, samples/s",
    "speed_ratio": "speed, times the baseline",
    "es": "edit similarity (ES), %",
    "em": "exact match (EM), %",
    "disk_mb": "disk, MB",
    "disk_gzip_mb": "disk, gzip archive, MB",
    "memory_mb": "peak memory, MB",
    "memory_over_base_mb": "peak memory over an empty process, MB",
    "energy_j_per_sample": "energy, J/sample",
    "latency_p50_ms": "median latency, ms",
    "latency_p95_ms": "95th percentile of latency, ms",
    "params_m": "parameters, millions",
}
"""The title of an axis, with its unit, by metric."""
LOG_FROM = 5.0
"""The largest value over the smallest from which an axis is logarithmic."""
_MARGIN = 0.06  # of the range, at each end


class Scale(NamedTuple):
    """The range of an axis, and where a value lies on it."""

    lo: float
    hi: float
    log: bool

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the lower end, 1 at the upper one."""
        lo, hi, at = ((math.log(each) if self.log else each) for each in (self.lo, self.hi, max(value, self.lo)))
        return (at - lo) / (hi - lo)

    def value(self, share: float) -> float:
        """The value that lies there: the opposite of `share`."""
        if self.log:
            return float(self.lo * (self.hi / self.lo) ** share)
        return self.lo + share * (self.hi - self.lo)

    def title(self, metric: str) -> str:
        """The title of a metric's axis with this scale."""
        return AXES[metric] + (" (log scale)" if self.log else "")

    def altair(self) -> alt.Scale:
        """The same for Vega."""
        return alt.Scale(type="log" if self.log else "linear", domain=[self.lo, self.hi], nice=False, zero=False)

    def axis(self) -> alt.Axis:
        """The axis with its ticks; on a logarithmic one at 1, 2 and 5 times the powers of ten."""
        if not self.log:
            return alt.Axis(format="~g")
        tens = range(math.floor(math.log10(self.lo)), math.ceil(math.log10(self.hi)) + 1)
        ticks = [digit * 10.0**power for power in tens for digit in (1, 2, 5)]
        return alt.Axis(format="~g", values=[tick for tick in ticks if self.lo <= tick <= self.hi])


def fit_scale(values: Collection[float]) -> Scale:
    """A scale from the least to the greatest of these values, with a margin at each end."""
    lo, hi = min(values), max(values)
    if lo > 0 and hi / lo >= LOG_FROM:
        factor = (hi / lo) ** _MARGIN
        return Scale(lo / factor, hi * factor, log=True)
    margin = _MARGIN * (hi - lo) or 0.1 * abs(hi) or 1.0
    return Scale(lo - margin, hi + margin, log=False)
