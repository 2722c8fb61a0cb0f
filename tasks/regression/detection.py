"""Whether tonight's measurement is what its history lets expect: suspicion first, then an alarm or none.

A night is suspected by its distance from the level of its series. What is suspected is measured again, and only those
new rounds decide, because a night that was picked for being far off overstates how far. Sources: Smyth, Linear Models
and Empirical Bayes Methods (SAGMB 3, 2004) for a variance held up by a prior while nights are few; Rousseeuw and Croux
(JASA 88, 1993) for the median absolute deviation; the sign test's interval of a median, which asks nothing of the
noise but independent rounds; Zou and Donner (Stat. Med. 27, 2008) for the interval of a difference of two estimates.

All values are natural logs, turned such that lower is worse; so -0.105 is 10 % less of what is good.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Collection, Sequence
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slimline.tasks.regression.changepoints import levels

NIGHTS_NEEDED = 5
"""Nights before anything is judged: fewer cannot tell noise from change."""
NIGHTS_KEPT = 60
"""Nights looked back: older ones say little about the machine of today."""
LOOKS = (8, 20, 44)
"""Rounds of a re-run after which it may be decided; eight are the fewest whose range is a 99 % interval of a median.

The level is 99 % at each look, not over all of them: without a change, one of three intervals leaves out the truth in
some 2 % of re-runs.
"""
LASTING_IMPROVEMENT = 3
"""Nights in a row, tonight included, for which an improvement must have lasted before it is the new level.

A false one would make the next normal night a regression, and nothing is lost by waiting.
"""
_SUSPECT = 2.0
"""Standard errors that make a night suspicious. A false suspicion costs a re-run; a missed one waits a night."""
_CONFIDENCE = 0.99
_PRIOR_NIGHTS = 4
"""How many nights the assumed noise between nights weighs, while the series learns its own."""
_OF_NIGHTS = 0.5
"""The least share of the deviations between nights that no number of rounds in a night would average out."""
_HALF_NORMAL = {0.5: 0.6745, 0.8: 1.2816}  # quantiles of the absolute value of standard normal noise
_MEDIAN_PENALTY = math.pi / 2  # the variance of a median is this many times that of a mean, for normal noise

Decision = Literal["worse", "better", "same", "undecided"]


class Night(NamedTuple):
    """One night of a series: its run, and a value a round."""

    run: str
    values: tuple[float, ...]

    @property
    def level(self) -> float:
        """The median over its rounds."""
        return statistics.median(self.values)


class Rule(NamedTuple):
    """What matters in a metric: the least change worth an alarm, and the noise between nights assumed beforehand.

    Both relative: 0.05 is 5 %. `lasting` is how many nights in a row a change must have lasted, tonight included.
    """

    relevant: float
    prior: float
    lasting: int = 1

    @property
    def step(self) -> float:
        """The least relevant change for the worse, as a log."""
        return -math.log(1 - self.relevant)


class Expectation(NamedTuple):
    """What a night of a series should measure.

    `level` rests on `nights`, from index `start` of the series; `between` is the standard deviation of a night's true
    level, `within` that of a round, `uncertainty` that of `level` itself, with `degrees` of freedom. `began` is the
    first level since the last confirmed change: where it is not `level`, the series has moved with no night confirmed
    as a change, as a slow drift does.
    """

    level: float
    nights: int
    start: int
    between: float
    within: float
    uncertainty: float
    degrees: int
    began: float

    def band(self, rounds: int) -> float:
        """How far from the level a night of that many rounds may be by noise alone, rarely farther."""
        own = _MEDIAN_PENALTY * self.within**2 / rounds
        return _SUSPECT * math.sqrt(self.between**2 + own + self.uncertainty**2)


class Shift(NamedTuple):
    """How far a night is from its level, with the ends of an interval."""

    value: float
    lo: float
    hi: float


def expect_night(series: Sequence[Night], rule: Rule, starts: Collection[str] = ()) -> Expectation | None:
    """What the next night of a series (oldest first) should measure; None where it is too short to say.

    The level is that of the nights since the last change: of those `starts` (runs) that were confirmed as one, and else
    of those the series shows. The noise is learnt from all nights, each around the level of its time.
    """
    if len(series) < NIGHTS_NEEDED:
        return None
    values = np.array([night.level for night in series])
    confirmed = [index for index, night in enumerate(series) if night.run in starts and index > 0]
    found = _pieces(values, rule, confirmed)
    residuals = np.concatenate([values[start:end] - np.median(values[start:end]) for start, end in found])
    spread = _combine_with_prior(_robust_deviation(residuals), len(residuals) - len(found), rule.prior)
    within = _within(series)
    rounds = float(np.median([len(night.values) for night in series]))
    between = math.sqrt(max(spread**2 - _MEDIAN_PENALTY * within**2 / rounds, (_OF_NIGHTS * spread) ** 2))
    start, end = found[-1]
    uncertainty = spread * math.sqrt(_variance_of_median(end - start))
    degrees = len(residuals) - len(found) + _PRIOR_NIGHTS
    level = float(np.median(values[start:end]))
    first, last = next(piece for piece in found if piece[0] >= max(confirmed, default=0))
    began = float(np.median(values[first:last]))
    return Expectation(level, end - start, start, between, within, uncertainty, degrees, began)


def _pieces(values: NDArray[np.float64], rule: Rule, confirmed: Sequence[int]) -> list[tuple[int, int]]:
    bounds = [0, *confirmed, len(values)]
    pieces = []
    for start, end in itertools.pairwise(bounds):
        pieces += [(start + low, start + high) for low, high in levels(values[start:end].tolist(), rule.step)]
    return pieces


def _robust_deviation(residuals: NDArray[np.float64]) -> float:
    """Standard deviation without the wildest: from the middle of the absolute deviations, or from four fifths of them.

    The larger, because where nights come in two kinds, busy and quiet, the middle sees one kind only; and no more than
    four fifths, because the last nights may have changed. Corrected for small samples (Croux and Rousseeuw, COMPSTAT
    1992).
    """
    distances = np.abs(residuals)
    scaled = [float(np.quantile(distances, share)) / normal for share, normal in _HALF_NORMAL.items()]
    return max(scaled) * len(residuals) / (len(residuals) - 0.8)


def _combine_with_prior(own: float, degrees: int, prior: float) -> float:
    weighted = degrees * own**2 + _PRIOR_NIGHTS * prior**2
    return math.sqrt(weighted / (degrees + _PRIOR_NIGHTS))


def _within(series: Sequence[Night]) -> float:
    """Standard deviation of a round within its night: the median night's, so that wild nights do not count."""
    scaled = [
        float(np.var(night.values)) * count / _median_of_squares(count - 1)
        for night in series
        if (count := len(night.values)) > 1
    ]
    return math.sqrt(float(np.median(scaled))) if scaled else 0.0


@cache
def _median_of_squares(degrees: int) -> float:
    from scipy import stats  # which takes seconds to import

    return float(stats.chi2.median(degrees))


def is_suspicious(night: Night, expectation: Expectation, rule: Rule) -> bool:
    """Whether a night is so far from its level that it should be measured again."""
    return abs(night.level - expectation.level) > tolerance(len(night.values), expectation, rule)


def tolerance(rounds: int, expectation: Expectation, rule: Rule) -> float:
    """How far a night of that many rounds may be from its level: the noise band, or half of what would be relevant.

    Half, because noise may have hidden the other half.
    """
    return max(expectation.band(rounds), rule.step / 2)


def shift(values: Sequence[float], expectation: Expectation) -> Shift:
    """How far the median of new rounds is from the level, with an interval that knows of the noise between nights.

    Infinite ends where the rounds are too few to have any.
    """
    value = float(np.median(values))
    low, high = median_bounds(values)
    nights = math.hypot(expectation.between, expectation.uncertainty)
    reach = nights * _t_quantile(expectation)
    middle = value - expectation.level
    return Shift(middle, middle - math.hypot(value - low, reach), middle + math.hypot(high - value, reach))


def shift_of_nights(nights: Sequence[Night], expectation: Expectation) -> Shift:
    """How far some nights are from the level, with an interval; each night counts once, however many rounds it has.

    What rounds scatter within a night is known from the history, so that a night may have a single one.
    """
    middle = float(np.median([night.level for night in nights])) - expectation.level
    own = float(np.mean([_variance_of_median(len(night.values)) for night in nights])) * expectation.within**2
    variance = (expectation.between**2 + own) * _variance_of_median(len(nights))
    reach = math.sqrt(variance + expectation.uncertainty**2) * _t_quantile(expectation)
    return Shift(middle, middle - reach, middle + reach)


def _t_quantile(expectation: Expectation) -> float:
    """Half the width of an interval, in standard deviations."""
    from scipy import stats  # which takes seconds to import

    return float(stats.t.ppf((1 + _CONFIDENCE) / 2, expectation.degrees))


def _variance_of_median(count: int) -> float:
    """Of that many values with variance 1; up to two have their mean as median."""
    return (_MEDIAN_PENALTY if count > 2 else 1.0) / count


def decide(found: Shift, rule: Rule) -> Decision:
    """What new measurements say: a relevant change that the noise does not explain, none, or not yet."""
    if found.hi < 0 and found.value <= -rule.step:
        return "worse"
    if found.lo > 0 and found.value >= rule.step:
        return "better"
    if (found.lo > -rule.step and found.hi < rule.step) or abs(found.value) < rule.step / 2:
        return "same"
    return "undecided"


def median_bounds(values: Sequence[float]) -> tuple[float, float]:
    """The sign test's 99 % interval of a median: two of the sorted values, or infinite for fewer than eight."""
    from scipy import stats  # which takes seconds to import

    ordered = np.sort(np.asarray(values, dtype=np.float64))
    rank = int(stats.binom.ppf((1 - _CONFIDENCE) / 2, len(ordered), 0.5))
    if rank == 0:
        return -math.inf, math.inf
    return float(ordered[rank - 1]), float(ordered[-rank])


def first_changed_night(nights: Sequence[float], start: int, level: float, tonight: float) -> int:
    """Index of the first night of a change from `level` to `tonight`; the number of nights if tonight is the first.

    It is the first of the unbroken row of last nights, back to `start`, that are nearer to tonight than to the level.
    """
    index = len(nights)
    while index > start and (nights[index - 1] - level) / (tonight - level) > 1 / 2:
        index -= 1
    return index
