import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from slimline.tasks.analysis.statistics import (
    TAINTED_ABOVE,
    Interval,
    equal_speed_p_value,
    holm,
    mcnemar,
    mean_interval,
    noise_floor,
    paired_difference,
    paired_ratio,
    proportion_interval,
    replicates_interval,
)

FINITE = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))
POSITIVE = st.floats(1e-3, 1e3)


def by_round(values):
    return dict(enumerate(values))


@pytest.mark.parametrize("interval", [replicates_interval, mean_interval])
def test_one_value_has_no_interval(interval):
    assert interval([3.0]) == Interval(3.0, None, None, 1)


@pytest.mark.parametrize("interval", [replicates_interval, mean_interval])
def test_constant_values_give_a_degenerate_interval(interval):
    assert interval([0.1] * 7) == Interval(0.1, 0.1, 0.1, 7)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_undefined_input_is_refused(values):
    with pytest.raises(ValueError, match="finite"):
        replicates_interval(values)


def test_students_interval_of_logarithms_by_hand():
    values = [2.0, 2.2, 2.5]
    logs = np.log(values)
    reach = stats.t.ppf(0.975, 2) * stats.sem(logs)
    expected = np.exp([logs.mean(), logs.mean() - reach, logs.mean() + reach])
    assert replicates_interval(values) == pytest.approx((*expected, 3))
    surer = replicates_interval(values, comparisons=10)
    reach = stats.t.ppf(1 - 0.025 / 10, 2) * stats.sem(logs)
    assert surer.lo == pytest.approx(np.exp(logs.mean() - reach))


@pytest.mark.parametrize("values", [[0.0], [1.0, -2.0]])
def test_what_processes_give_is_positive(values):
    with pytest.raises(ValueError, match=f"positive values; got .{min(values)}"):
        replicates_interval(values)


def test_the_same_values_give_the_same_interval():
    values = np.random.default_rng(1).normal(size=40).tolist()
    assert mean_interval(values) == mean_interval(values)


@settings(max_examples=30, deadline=None)
@given(st.lists(FINITE, min_size=2, max_size=12))
def test_a_bootstrap_interval_holds_its_value_and_stays_within_the_data(values):
    interval, slack = mean_interval(values), 1e-9 * max(map(abs, values))
    assert min(values) - slack <= interval.lo <= interval.value + slack
    assert interval.value - slack <= interval.hi <= max(values) + slack


@settings(max_examples=20, deadline=None)
@given(st.lists(POSITIVE, min_size=2, max_size=12), st.floats(0.1, 10))
def test_intervals_follow_a_change_of_unit(values, factor):
    moved = replicates_interval([factor * value for value in values])
    assert moved[:3] == pytest.approx(replicates_interval(values).scale(factor)[:3], rel=1e-9)


@pytest.mark.parametrize(
    ("interval", "draw", "truth"),
    [
        (mean_interval, lambda rng: rng.normal(5, 2, 30), 5.0),
        *((replicates_interval, lambda rng, n=n: rng.lognormal(0, 0.02, n), 1.0) for n in (2, 3, 5, 10)),
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
    assert ratio == pytest.approx(replicates_interval([2.0, 2.1, 2.0]))


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


def test_the_noise_floor_is_the_farther_end_of_the_ratio_to_itself():
    values = [1.01, 0.97, 1.02]
    found = replicates_interval(values)
    assert noise_floor(values) == pytest.approx(max(1 - found.lo, found.hi - 1))
    assert noise_floor([0.9]) is None
    assert noise_floor([1.0] * 4) == 0.0


@pytest.mark.parametrize(("noise", "tainted"), [(0.005, False), (0.3, True)])
def test_simulated_sessions_are_tainted_when_noisy(noise, tainted):
    rng = np.random.default_rng(3)
    floors = [noise_floor(ratios) for ratios in rng.lognormal(0, noise, (20, 5))]
    assert {floor > TAINTED_ABOVE for floor in floors} == {tainted}


def test_the_p_value_is_that_of_students_test():
    values = [1.01, 1.05, 0.99, 1.04]
    assert equal_speed_p_value(values) == pytest.approx(stats.ttest_1samp(np.log(values), 0).pvalue)
    assert equal_speed_p_value([2.0]) is None
    assert (equal_speed_p_value([1.0, 1.0]), equal_speed_p_value([2.0, 2.0])) == (1.0, 0.0)


@given(st.lists(POSITIVE.filter(lambda value: value != 1), min_size=2, max_size=8, unique=True))
def test_the_p_value_and_the_interval_say_the_same(values):
    found, p_value = replicates_interval(values), equal_speed_p_value(values)
    assert (p_value < 0.05) == (not found.lo <= 1 <= found.hi) or p_value == pytest.approx(0.05)


def test_holms_example():
    # Holm (1979), as in R's p.adjust: of 0.01, 0.02, 0.03, 0.04.
    assert holm({"a": 0.03, "b": 0.01, "c": 0.04, "d": 0.02}) == pytest.approx(
        {"a": 0.06, "b": 0.04, "c": 0.06, "d": 0.06}
    )
    assert holm({}) == {}


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=6))
def test_holm_only_raises_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    assert adjusted.keys() == p_values.keys()
    assert all(p_values[name] <= adjusted[name] <= 1 for name in p_values)
    in_order = sorted(p_values, key=p_values.get)
    assert [adjusted[name] for name in in_order] == sorted(adjusted.values())


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


def test_pairs_that_agree_by_luck_are_no_surer_than_each_of_them_is():
    lucky = [1.007, 1.0072, 1.0068, 1.007]
    alone, known = replicates_interval(lucky), replicates_interval(lucky, errors=[0.006] * 4)
    assert alone.lo > 1.006 and known.lo < 1 < known.hi and known.value == alone.value
    assert known.hi / known.value == pytest.approx(np.exp(3.182 * 0.006 / 2), rel=1e-4)
    assert equal_speed_p_value(lucky) < 0.001 and equal_speed_p_value(lucky, [0.006] * 4) > 0.05
    spread = [0.97, 1.0, 1.03, 1.01]
    assert replicates_interval(spread, errors=[0.006] * 4) == replicates_interval(spread)
    assert noise_floor(lucky, [0.006] * 4) == pytest.approx(known.hi - 1)
