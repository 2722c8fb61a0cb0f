import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimline.tasks.analysis.statistics import (
    TAINTED_ABOVE,
    Interval,
    mcnemar,
    mean_interval,
    median_interval,
    noise_floor,
    paired_difference,
    paired_ratio,
    proportion_interval,
)

FINITE = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))
POSITIVE = st.floats(1e-3, 1e3)


def by_round(values):
    return dict(enumerate(values))


@pytest.mark.parametrize("interval", [median_interval, mean_interval])
def test_one_value_has_no_interval(interval):
    assert interval([3.0]) == Interval(3.0, None, None, 1)


@pytest.mark.parametrize("interval", [median_interval, mean_interval])
def test_constant_values_give_a_degenerate_interval(interval):
    assert interval([0.1] * 7) == Interval(0.1, 0.1, 0.1, 7)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_undefined_input_is_refused(values):
    with pytest.raises(ValueError, match="finite"):
        median_interval(values)


def test_few_rounds_give_their_own_range():
    assert median_interval([3.0, 1.0, 2.0]) == Interval(2.0, 1.0, 3.0, 3)


def test_the_same_values_give_the_same_interval():
    values = np.random.default_rng(1).normal(size=40).tolist()
    assert mean_interval(values) == mean_interval(values)


@settings(max_examples=30, deadline=None)
@given(st.lists(FINITE, min_size=2, max_size=12))
def test_intervals_hold_their_value_and_stay_within_the_data(values):
    for interval in (median_interval(values), mean_interval(values)):
        slack = 1e-9 * max(map(abs, values))
        assert min(values) - slack <= interval.lo <= interval.value + slack
        assert interval.value - slack <= interval.hi <= max(values) + slack


@settings(max_examples=20, deadline=None)
@given(st.lists(FINITE, min_size=2, max_size=12), st.floats(0.1, 10), FINITE)
def test_intervals_follow_a_change_of_unit(values, factor, shift):
    moved = median_interval([factor * value + shift for value in values])
    expected = median_interval(values).scale(factor)
    assert moved[:3] == pytest.approx([part + shift for part in expected[:3]], abs=1e-6, rel=1e-9)


@pytest.mark.parametrize(
    ("interval", "draw", "truth"),
    [
        (mean_interval, lambda rng: rng.normal(5, 2, 30), 5.0),
        (median_interval, lambda rng: rng.lognormal(0, 0.5, 30), 1.0),
        (proportion_interval, lambda rng: rng.random(100) < 0.04, 0.04),
    ],
)
def test_intervals_cover_the_truth_about_as_often_as_they_say(interval, draw, truth):
    rng = np.random.default_rng(11)
    intervals = [interval(list(draw(rng))) for _ in range(150)]
    covered = np.mean([found.lo <= truth <= found.hi for found in intervals])
    assert 0.89 <= covered <= 0.99


def test_a_proportion_at_its_end_still_has_an_interval():
    none = proportion_interval([False] * 20)
    assert (none.value, none.lo, none.n) == (0.0, 0.0, 20)
    assert none.hi == pytest.approx(0.1611, abs=1e-4)
    with pytest.raises(ValueError, match="no outcomes"):
        proportion_interval([])


def test_wilson_matches_its_published_example():
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81 of 263.
    assert proportion_interval([True] * 81 + [False] * 182)[1:3] == pytest.approx((0.2553, 0.3662), abs=1e-4)


def test_a_known_ratio():
    ratio = paired_ratio(by_round([2.0, 4.2, 8.0]), by_round([1.0, 2.0, 4.0]))
    assert ratio == pytest.approx((2.0, 2.0, 2.1, 3))


def test_the_ratio_cancels_what_drifts_in_both():
    drift = np.linspace(1, 5, 9)
    assert paired_ratio(by_round(3 * drift), by_round(drift)) == pytest.approx((3, 3, 3, 9))


def test_only_shared_rounds_count():
    assert paired_ratio({0: 2.0, 1: 9.0}, {0: 1.0, 2: 5.0}) == Interval(2.0, None, None, 1)
    with pytest.raises(ValueError, match="share no round"):
        paired_ratio({0: 1.0}, {1: 1.0})


def test_a_ratio_needs_positive_values():
    with pytest.raises(ValueError, match=r"positive.*0\.0"):
        paired_ratio({0: 1.0, 1: 0.0}, {0: 1.0, 1: 2.0})


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=2, max_size=8), st.floats(0.01, 100))
def test_the_ratio_inverts_and_ignores_the_unit(pairs, factor):
    variant, baseline = (by_round(values) for values in zip(*pairs, strict=True))
    ratio = paired_ratio(variant, baseline)
    swapped = paired_ratio(baseline, variant)
    assert (1 / swapped.value, 1 / swapped.hi, 1 / swapped.lo) == pytest.approx(ratio[:3], rel=1e-6)
    scaled = (by_round(factor * value for value in side.values()) for side in (variant, baseline))
    assert paired_ratio(*scaled)[:3] == pytest.approx(ratio[:3], rel=1e-6)


def test_the_noise_floor_is_the_farthest_bound_from_one():
    assert noise_floor(by_round([1.0, 1.0, 1.0]), by_round([1.01, 0.97, 1.02])) == pytest.approx(0.03)
    assert noise_floor({0: 1.0}, {0: 0.9}) == pytest.approx(0.1)
    assert noise_floor(by_round([2.0] * 4), by_round([2.0] * 4)) == 0.0


@pytest.mark.parametrize(("noise", "tainted"), [(0.01, False), (0.3, True)])
def test_simulated_sessions_are_tainted_when_noisy(noise, tainted):
    rng = np.random.default_rng(3)
    passes = rng.lognormal(0, noise, (20, 2, 5)) * rng.lognormal(0, 0.5, (20, 1, 5))  # the host's drift is shared
    floors = [noise_floor(by_round(first), by_round(second)) for first, second in passes]
    assert {floor > TAINTED_ABOVE for floor in floors} == {tainted}


def test_a_paired_difference_sees_what_independent_scores_cannot():
    rng = np.random.default_rng(5)
    hard = rng.uniform(0, 100, 300)
    better, worse = hard + rng.normal(2, 3, 300), hard
    difference = paired_difference(better, worse)
    assert 1.5 < difference.lo < difference.value < difference.hi < 2.6
    assert paired_difference(worse, better).value == pytest.approx(-difference.value)
    assert paired_difference(worse, worse) == Interval(0.0, 0.0, 0.0, 300)


@pytest.mark.parametrize("test", [paired_difference, mcnemar])
def test_pairs_must_match(test):
    with pytest.raises(ValueError, match="2 and 1"):
        test([True, False], [True])


def test_mcnemar_counts_disagreements_only():
    # 1 against 7 of 8 disagreements: 2 * (1 + 8) / 2**8.
    a = [True] * 1 + [False] * 7 + [True] * 50
    b = [False] * 1 + [True] * 7 + [True] * 50
    assert mcnemar(a, b) == mcnemar(b, a) == pytest.approx(18 / 256)
    assert mcnemar(a, a) == 1.0


def test_mcnemar_rarely_cries_wolf():
    rng = np.random.default_rng(9)
    p_values = [mcnemar(*(rng.random((2, 120)) < 0.4)) for _ in range(300)]
    assert np.mean(np.array(p_values) < 0.05) <= 0.06
