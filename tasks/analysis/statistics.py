"""Intervals and tests for noisy measurements. Every interval is a 95 % one, and the same input gives the same output.

What is timed has two levels of noise: from process to process, and from sample to sample within one. Processes are the
replicates: each gives one number, whose spread has the noise of both levels in it, and Student's t over these numbers
is the interval of Kalibera and Jones, Rigorous Benchmarking in Reasonable Time (ISMM 2013), equation 2. It is right for
as few as two processes; one gives none. A bootstrap over few processes cannot see beyond them.

Other sources: Georges et al., Statistically Rigorous Java Performance Evaluation (OOPSLA 2007); Efron and Tibshirani,
An Introduction to the Bootstrap (1993), chapter 13 (percentile interval); Dror et al., The Hitchhiker's Guide to
Testing Statistical Significance in NLP (ACL 2018): paired tests over samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TAINTED_ABOVE = 0.05
"""A session whose noise floor exceeds this (relative) is marked tainted: its differences below 5 % mean nothing."""
FEWEST = 2
"""Processes that an interval takes."""

_CONFIDENCE = 0.95
_RESAMPLES = 9_999
_SEED = 0
_ELEMENTS_AT_ONCE = 2_000_000  # 16 MB of resampled doubles


class Interval(NamedTuple):
    """An estimate, its 95 % interval in the same unit (null where one value cannot give any), and the sample size."""

    value: float
    lo: float | None
    hi: float | None
    n: int

    def scale(self, factor: float) -> Interval:
        """The same interval in a unit `factor` times smaller; `factor` > 0."""
        lo, hi = (None if bound is None else bound * factor for bound in (self.lo, self.hi))
        return Interval(self.value * factor, lo, hi, self.n)


def replicates_interval(values: Sequence[float], comparisons: int = 1, errors: Sequence[float] = ()) -> Interval:
    """Geometric mean of what each process gave, with Student's interval of the mean of logarithms.

    Args:
        values: One number of each process, all positive.
        comparisons: Intervals that are to hold together: each is then that much surer (Bonferroni).
        errors: Their relative standard errors, if known: what they seem to spread by is no less than these explain, as
            a few may agree by luck.

    Raises:
        ValueError: there is no value, or one is not positive and finite.
    """
    data = _checked(values)
    if not (data > 0).all():
        raise ValueError(f"need positive values; got {data[data <= 0].tolist()[:10]}")
    if (data == data[0]).all() and (data.size < FEWEST or not any(errors)):
        end = None if data.size < FEWEST else float(data[0])
        return Interval(float(data[0]), end, end, data.size)
    middle = float(np.exp(np.log(data).mean()))
    reach = _error_of_mean(data, errors) * _student(data.size - 1, comparisons)
    return Interval(middle, middle * float(np.exp(-reach)), middle * float(np.exp(reach)), data.size)


def _error_of_mean(data: NDArray[np.float64], errors: Sequence[float]) -> float:
    """Standard error of the mean of logarithms."""
    within = float(np.sqrt(np.mean(np.square(errors)))) if errors else 0.0
    return max(float(np.log(data).std(ddof=1)), within) / math.sqrt(data.size)


def _student(degrees: int, comparisons: int) -> float:
    from scipy.special import stdtrit  # a tenth of the time that scipy.stats takes to import

    return float(stdtrit(degrees, 1 - (1 - _CONFIDENCE) / 2 / comparisons))


def equal_speed_p_value(ratios: Sequence[float], errors: Sequence[float] = ()) -> float | None:
    """Two-sided p-value of Student's test that the geometric mean of these ratios is 1; null for a single one.

    `errors` are those of `replicates_interval`, and so is ValueError.
    """
    from scipy.special import stdtr

    found = replicates_interval(ratios)
    if found.n < FEWEST:
        return None
    logs = np.log(ratios)
    error = _error_of_mean(np.asarray(ratios, dtype=np.float64), errors)
    if error == 0:
        return 1.0 if found.value == 1 else 0.0
    return float(2 * stdtr(found.n - 1, -abs(float(logs.mean())) / error))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P-values that hold together, by name (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = largest
    return adjusted


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean with a percentile bootstrap interval. Raises ValueError for no values or a value that is not finite."""
    return _bootstrap_mean(values)


def proportion_interval(outcomes: Sequence[bool]) -> Interval:
    """Share (0 to 1) of true outcomes with Wilson's score interval (JASA 22, 1927), which holds near 0 and 1 too.

    Raises ValueError for no outcomes.
    """
    if not outcomes:
        raise ValueError("a proportion of no outcomes is undefined")
    from scipy import stats  # which takes seconds to import

    test = stats.binomtest(sum(outcomes), len(outcomes))
    bounds = test.proportion_ci(_CONFIDENCE, method="wilson")
    return Interval(float(test.statistic), float(bounds.low), float(bounds.high), len(outcomes))


def paired_ratio(ours: Mapping[int, float], theirs: Mapping[int, float], comparisons: int = 1) -> Interval:
    """How many times theirs our value is, paired by round: what a round does to both cancels.

    Swapping the two gives exactly the reciprocal. Only rounds that both have count.

    Args:
        ours: Values by round.
        theirs: Values by round.
        comparisons: As for `replicates_interval`.

    Raises:
        ValueError: they share no round, or a value is not positive.
    """
    rounds = sorted(ours.keys() & theirs.keys())
    if not rounds:
        raise ValueError("they share no round")
    pairs = [(ours[each], theirs[each]) for each in rounds]
    if bad := [pair for pair in pairs if min(pair) <= 0]:
        raise ValueError(f"a ratio needs positive values, got {list(bad[0])}")
    return replicates_interval([one / other for one, other in pairs], comparisons)


def noise_floor(ratios: Sequence[float], errors: Sequence[float] = ()) -> float | None:
    """How far from 1 the ratio of a variant to itself may be, as a relative difference (0.03: 3 %); null for one pair.

    Args:
        ratios: Of the baseline to itself, one a pair of processes, estimated as every variant's ratio is.
        errors: As for `replicates_interval`.

    Raises:
        ValueError: as `replicates_interval`.
    """
    found = replicates_interval(ratios, errors=errors)
    if found.lo is None or found.hi is None:
        return None
    return max(abs(found.lo - 1), abs(found.hi - 1))


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Interval:
    """Mean of a minus b over the same samples, with a paired percentile bootstrap interval (Koehn, EMNLP 2004).

    Raises ValueError for different lengths, no values, or a value that is not finite.
    """
    _same_length(a, b)
    return _bootstrap_mean(np.subtract(a, b, dtype=np.float64))


def mcnemar(correct_a: Sequence[bool], correct_b: Sequence[bool]) -> float:
    """Two-sided exact p-value of McNemar's test (Psychometrika 12, 1947): do a and b answer equally many right?

    Only samples on which they disagree carry information; under the null each goes either way with probability 1/2.
    1.0 if they never disagree. Raises ValueError for different lengths.
    """
    _same_length(correct_a, correct_b)
    only_a = sum(bool(x) and not y for x, y in zip(correct_a, correct_b, strict=True))
    only_b = sum(bool(y) and not x for x, y in zip(correct_a, correct_b, strict=True))
    if only_a + only_b == 0:
        return 1.0
    from scipy import stats

    return float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def _same_length(a: Sequence[object], b: Sequence[object]) -> None:
    if len(a) != len(b):
        raise ValueError(f"paired samples differ in number: {len(a)} and {len(b)}")


def _checked(values: Sequence[float] | np.ndarray) -> np.ndarray:
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0 or not np.isfinite(data).all():
        raise ValueError(f"need at least one value, all finite; got {data.tolist()[:10]}")
    return data


def _bootstrap_mean(values: Sequence[float] | np.ndarray) -> Interval:
    data = _checked(values)
    if data.size == 1:
        return Interval(float(data[0]), None, None, 1)
    if (data == data[0]).all():
        return Interval(float(data[0]), float(data[0]), float(data[0]), data.size)
    from scipy import stats

    bounds = stats.bootstrap(
        (data,),
        np.mean,
        n_resamples=_RESAMPLES,
        batch=max(1, _ELEMENTS_AT_ONCE // data.size),
        vectorized=True,
        confidence_level=_CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return Interval(float(data.mean()), float(bounds.low), float(bounds.high), data.size)
