"""The judge of nightly runs: levels, noise, suspicion, and what new rounds make of it."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimline.tasks.regression.changepoints import SHORTEST, levels
from slimline.tasks.regression.detection import (
    LOOKS,
    NIGHTS_NEEDED,
    Night,
    Rule,
    decide,
    expect_night,
    first_changed_night,
    is_suspicious,
    median_bounds,
    shift,
    shift_of_nights,
)

RULE = Rule(relevant=0.05, prior=0.02)
SLOWER = math.log(0.9)


def night(name, level, noise=0.02, rounds=3, seed=0):
    draw = np.random.default_rng([seed, len(name)])
    return Night(name, tuple((level + draw.normal(0, noise, rounds)).tolist()))


def series(count, level=1.0, noise=0.02, seed=0, rounds=3):
    draw = np.random.default_rng(seed)
    return [Night(f"n{n}", tuple((level + draw.normal(0, noise, rounds)).tolist())) for n in range(count)]


values = st.lists(st.floats(-3, 3), min_size=1, max_size=40)


@given(values)
def test_levels_are_the_whole_series_in_order(found):
    pieces = levels(found, 0.05)
    assert pieces[0].start == 0 and pieces[-1].end == len(found)
    assert all(one.end == following.start for one, following in pairwise(pieces))
    assert len(pieces) == 1 or min(end - start for start, end in pieces) >= SHORTEST


def test_a_step_starts_a_level_where_it_is():
    draw = np.random.default_rng(0)
    stepped = [*draw.normal(0, 0.02, 20), *draw.normal(SLOWER, 0.02, 8)]
    assert levels(stepped, RULE.step) == [(0, 20), (20, 28)]


def test_one_wild_night_and_a_small_step_are_no_levels():
    draw = np.random.default_rng(1)
    steady = draw.normal(0, 0.01, 30)
    assert len(levels([*steady[:15], -2.0, *steady[15:]], RULE.step)) == 1
    assert len(levels([*steady[:15], *(steady[15:] - 0.03)], RULE.step)) == 1


def test_what_creeps_is_compared_with_where_it_began():
    crept = [-0.004 * number for number in range(12)] + [-0.048] * 4
    assert levels(crept, RULE.step)[0].start == 0 and len(levels(crept, RULE.step)) == 1


def test_too_short_a_series_expects_nothing():
    assert expect_night(series(NIGHTS_NEEDED - 1), RULE) is None
    assert expect_night(series(NIGHTS_NEEDED), RULE) is not None


def test_the_level_is_that_since_the_last_change():
    past = series(15) + [Night(f"slow{n}", each.values) for n, each in enumerate(series(8, 1 + SLOWER, seed=1))]
    found = expect_night(past, RULE)
    assert found.level == pytest.approx(1 + SLOWER, abs=0.02) and found.nights == 8
    confirmed = expect_night(past[:16], RULE, starts={"slow0"})
    assert confirmed.level == past[15].level and confirmed.nights == 1
    assert expect_night(past[:16], RULE).level == pytest.approx(1, abs=0.02)


def test_the_band_is_wider_where_there_is_more_noise_and_fewer_rounds():
    quiet, noisy = expect_night(series(20, noise=0.01), RULE), expect_night(series(20, noise=0.1), RULE)
    assert quiet.band(3) < 0.06 < noisy.band(3)
    assert noisy.band(12) < noisy.band(3)


def test_no_noise_at_all_still_has_a_band():
    found = expect_night([Night(f"n{n}", (1.0, 1.0)) for n in range(40)], RULE)
    assert 0 < found.band(2) < RULE.step / 2
    assert not is_suspicious(Night("tonight", (0.98, 0.98)), found, RULE)
    assert is_suspicious(Night("tonight", (0.97, 0.97)), found, RULE)


@pytest.mark.parametrize(("level", "verdict"), [(SLOWER, "worse"), (-SLOWER, "better"), (0.0, "same")])
def test_new_rounds_decide(level, verdict):
    found = expect_night(series(20), RULE)
    rounds = night("again", 1 + level, rounds=LOOKS[1]).values
    assert decide(shift(rounds, found), RULE) == verdict


def test_rounds_too_few_or_too_noisy_leave_it_open():
    found = expect_night(series(20), RULE)
    for rounds, noise in ((LOOKS[0] - 1, 0.02), (LOOKS[0], 0.4)):
        values = night("again", 1 + SLOWER, noise=noise, rounds=rounds).values
        assert decide(shift(values, found), RULE) == "undecided"
    assert shift((0.9,) * 7, found)[1:] == (-math.inf, math.inf)


def test_a_change_too_small_to_matter_is_none_however_sure():
    found = expect_night(series(40, noise=0.001), Rule(0.05, 0.001))
    values = night("again", 1 - 0.02, noise=0.001, rounds=20).values
    assert decide(shift(values, found), RULE) == "same"


@pytest.mark.parametrize(("level", "verdict"), [(SLOWER, "worse"), (-SLOWER, "better"), (0.0, "same")])
@pytest.mark.parametrize("rounds", [1, 4])
def test_later_nights_decide_as_well(level, verdict, rounds):
    found = expect_night(series(30, rounds=rounds), RULE)
    later = series(6, 1 + level, seed=5, rounds=rounds)
    assert decide(shift_of_nights(later, found), RULE) == verdict
    one, six = (shift_of_nights(later[:count], found) for count in (1, 6))
    assert six.hi - six.lo < one.hi - one.lo


def test_an_interval_of_nights_holds_the_truth_as_often_as_it_says():
    def misses(seed):
        found = expect_night(series(25, noise=0.03, seed=seed, rounds=1), RULE)
        later = shift_of_nights(series(3, noise=0.03, seed=10_000 + seed, rounds=1), found)
        return not later.lo <= 0 <= later.hi

    assert sum(misses(seed) for seed in range(400)) <= 12  # one in a hundred is 4


@given(st.integers(1, 60))
def test_bounds_of_a_median_are_among_the_values_and_symmetric(count):
    low, high = median_bounds([float(value) for value in range(1, count + 1)])
    assert low + high == count + 1 or (low, high) == (-math.inf, math.inf)
    assert (count >= LOOKS[0]) == math.isfinite(low)


def test_bounds_of_a_median_hold_the_median_as_often_as_they_say():
    draw = np.random.default_rng(0)
    bounds = [median_bounds(draw.standard_cauchy(LOOKS[1])) for _ in range(2000)]
    assert np.mean([low <= 0 <= high for low, high in bounds]) >= 0.985


def test_a_change_began_with_the_first_night_nearer_to_tonight():
    assert first_changed_night([1.0, 1.1, 0.7, 0.9, 0.62, 0.58], 0, 1.0, 0.6) == 4
    assert first_changed_night([1.0, 1.0, 0.95], 0, 1.0, 0.6) == 3
    assert first_changed_night([0.6, 0.6, 0.6], 2, 1.0, 0.6) == 2
