"""Where the level of a series of nights has changed, so that a night is judged against the level it should have.

Killick, Fearnhead and Eckley, Optimal Detection of Changepoints With a Linear Computational Cost (JASA 107, 2012), as
in ruptures, for squared deviations, after a Hampel filter (Pearson, IEEE Trans. Control Syst. Technol. 10, 2002): one
wild night makes no level.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SHORTEST = 5
"""Nights that make a level: fewer at another one are suspicious nights, not a level of their own."""
PENALTY = 4.0
"""What a change must explain, in units of ln(nights) of squared standard deviations. Schwarz's criterion would be 2,
for a change's place and its level; the rest is for noise that is not quite independent from night to night."""
_WILD = 3.0  # standard deviations from its neighbours' median that make a night a wild one
_NEIGHBOURS = 5
_FINEST = 1e-4  # relative: below this, differences are rounding

Series = NDArray[np.float64]


class Level(NamedTuple):
    """Consecutive nights around one level: indices `start` to `end` (exclusive) of their series."""

    start: int
    end: int


def levels(values: Sequence[float], relevant: float) -> list[Level]:
    """The levels of a series, oldest first; at least one where there are values.

    A step of less than `relevant` (in the unit of the values) is no change: so what creeps by less than that in all is
    compared with where it began. A drift that goes on is cut into levels, and does pull its reference along: whoever
    judges has to compare the levels, too.
    """
    series = np.asarray(values, dtype=np.float64)
    bounds = [0, *_changes(series), len(series)]
    found: list[Level] = []
    for start, end in itertools.pairwise(bounds):
        if found and abs(_median(series, Level(start, end)) - _median(series, found[-1])) < relevant:
            found[-1] = Level(found[-1].start, end)
        else:
            found.append(Level(start, end))
    return found


def _median(series: Series, level: Level) -> float:
    return float(np.median(series[level.start : level.end]))


def _changes(series: Series) -> list[int]:
    if len(series) < 2 * SHORTEST:
        return []
    import ruptures  # with scipy seconds, which a run that judges nothing need not wait for

    standardised = _without_wild(series / _noise_between(series))
    search = ruptures.KernelCPD(kernel="linear", min_size=SHORTEST, jump=1).fit(standardised)
    *changes, _ = search.predict(pen=PENALTY * math.log(len(series)))
    return [int(change) for change in changes]


def _without_wild(standardised: Series) -> Series:
    from scipy import ndimage

    neighbours = ndimage.median_filter(standardised, _NEIGHBOURS, mode="nearest")
    return np.where(np.abs(standardised - neighbours) > _WILD, neighbours, standardised)


def _noise_between(series: Series) -> float:
    """Standard deviation of a night around its level, by the steps from night to night: no change of level shows in it.

    The median absolute step, scaled as for normal noise (Hampel, JASA 69, 1974), divided by the root of 2.
    """
    steps = np.abs(np.diff(series))
    return max(1.4826 * float(np.median(steps)) / math.sqrt(2), _FINEST)
