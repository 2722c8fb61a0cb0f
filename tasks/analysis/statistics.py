"""Intervals and tests for noisy measurements. Every interval is a 95 % one, and the same input gives the same output.

Sources: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13 (percentile interval); Georges et
al., Statistically Rigorous Java Performance Evaluation (OOPSLA 2007): replicates are processes, compare intervals;
Dror et al., The Hitchhiker's Guide to Testing Statistical Significance in NLP (ACL 2018): paired tests over samples.

A bootstrap over few rounds cannot see beyond them: up to 5 rounds, the interval of a median is the rounds' own range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

TAINTED_ABOVE = 0.05
"""A session whose noise floor exceeds this (relative) is marked tainted: its differences below 5 % mean nothing."""

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


def median_interval(values: Sequence[float]) -> Interval:
    """Median with a percentile bootstrap interval. Raises ValueError for no values or a value that is not finite."""
    return _bootstrap(values, "median")


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean with a percentile bootstrap interval. Raises ValueError for no values or a value that is not finite."""
    return _bootstrap(values, "mean")


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


def paired_ratio(variant_by_round: Mapping[int, float], baseline_by_round: Mapping[int, float]) -> Interval:
    """How many times the baseline's value the variant's is, paired by round.

    The median of the per-round log ratios, bootstrapped over rounds and exponentiated: one disturbed round does not
    move it, a slow drift of the host cancels, and swapping the two gives exactly the reciprocal. Only rounds in which
    both were measured count. Raises ValueError if there is none, or for a value that is not positive.
    """
    rounds = sorted(variant_by_round.keys() & baseline_by_round.keys())
    if not rounds:
        raise ValueError("variant and baseline share no round")
    pairs = np.array([(variant_by_round[round_], baseline_by_round[round_]) for round_ in rounds], dtype=np.float64)
    if not (pairs > 0).all():
        raise ValueError(f"a ratio needs positive values, got {pairs[(pairs <= 0).any(axis=1)][0].tolist()}")
    logs = _bootstrap(np.log(pairs[:, 0] / pairs[:, 1]), "median")
    value, lo, hi = (None if bound is None else float(np.exp(bound)) for bound in logs[:3])
    assert value is not None
    return Interval(value, lo, hi, len(rounds))


def noise_floor(first_pass: Mapping[int, float], second_pass: Mapping[int, float]) -> float:
    """How far from 1 this session's A/A ratio may be, as a relative difference (0.03: 3 %).

    The baseline is measured twice in every round; of the paired ratio's value and 95 % bounds, the farthest from 1.
    A difference between variants below it is noise. Raises ValueError as `paired_ratio` does.
    """
    ratio = paired_ratio(second_pass, first_pass)
    return max(abs(bound - 1) for bound in ratio[:3] if bound is not None)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Interval:
    """Mean of a minus b over the same samples, with a paired percentile bootstrap interval (Koehn, EMNLP 2004).

    Raises ValueError for different lengths, no values, or a value that is not finite.
    """
    _same_length(a, b)
    return _bootstrap(np.subtract(a, b, dtype=np.float64), "mean")


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


def _bootstrap(values: Sequence[float] | np.ndarray, statistic: Literal["mean", "median"]) -> Interval:
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0 or not np.isfinite(data).all():
        raise ValueError(f"need at least one value, all finite; got {data.tolist()[:10]}")
    estimate = np.mean if statistic == "mean" else np.median
    if data.size == 1:
        return Interval(float(data[0]), None, None, 1)
    if (data == data[0]).all():
        return Interval(float(data[0]), float(data[0]), float(data[0]), data.size)
    from scipy import stats

    bounds = stats.bootstrap(
        (data,),
        estimate,
        n_resamples=_RESAMPLES,
        batch=max(1, _ELEMENTS_AT_ONCE // data.size),
        vectorized=True,
        confidence_level=_CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return Interval(float(estimate(data)), float(bounds.low), float(bounds.high), data.size)
