"""Two that take turns: who is asked what, and what their seconds say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from slimline.tasks.measurement.pairs import LONGEST, PRECISE, Schedule, compare, take_turns

POSITIVE = st.floats(1e-3, 1e3)
SECONDS = arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 9), st.just(2)), elements=POSITIVE)


class Taker:
    """Takes a second for sample 0, two for 1, and so on, times a factor; it notes its turns in a list of all."""

    def __init__(self, name, turns, factor=1.0, noise=0.0):
        self.name, self.turns, self.factor, self.noise = name, turns, factor, noise
        self.rng = np.random.default_rng(0)

    def take_turn(self, samples, timeout_s):
        self.turns.append((self.name, samples))
        return [self.factor * (sample + 1) * np.exp(self.noise * self.rng.normal()) for sample in samples]


def taken(schedule, factor=1.0, seed="r/1", noise=0.0):
    turns = []
    seconds = take_turns(Taker("ours", turns, 1.0, noise), Taker("theirs", turns, factor), schedule, seed)
    return seconds, turns


def test_both_are_timed_on_the_same_samples_turn_by_turn():
    seconds, turns = taken(Schedule(10, 4, 0, 60), factor=3.0)
    assert seconds.shape == (1, 10, 2)
    assert seconds[0, :, 0].tolist() == [1.0 + sample for sample in range(10)]
    assert np.allclose(seconds[..., 1], 3 * seconds[..., 0])
    assert [len(samples) for _, samples in turns] == [4, 4, 4, 4, 2, 2]
    for first, second in zip(turns[::2], turns[1::2], strict=True):
        assert {first[0], second[0]} == {"ours", "theirs"} and first[1] == second[1]


def test_passes_begin_until_both_have_had_their_seconds():
    seconds, _ = taken(Schedule(3, 3, 20, 60))
    assert len(seconds) == 2  # of 12 seconds each


def test_noisy_ones_go_on_until_their_ratio_is_precise_or_their_time_is_over():
    found, _ = taken(Schedule(10, 1, 100, 60), noise=0.06)
    assert len(found) > 1 and compare(found).error <= PRECISE < compare(found[:-1]).error
    hopeless, _ = taken(Schedule(10, 1, 100, 60), noise=0.5)
    assert hopeless.sum() > LONGEST * 100 > hopeless[:-1].sum()
    once, _ = taken(Schedule(10, 1, 0, 60), noise=0.5)
    assert len(once) == 1


def test_the_error_is_that_of_the_ratios_mean():
    """Of normal noise, the spread of many pairs' ratios agrees with what each says of its own, whatever the samples."""
    rng = np.random.default_rng(0)
    lengths = rng.uniform(1, 1.2, (1, 10, 2))
    pairs = [compare(lengths * np.exp(rng.normal(0, 0.05, (8, 10, 2)))) for _ in range(400)]
    spread = np.std(np.log([each.ratio for each in pairs]))
    assert np.mean([each.error for each in pairs]) == pytest.approx(spread, rel=0.1)


def test_order_and_who_begins_are_drawn_and_repeatable():
    turns = taken(Schedule(20, 1, 0, 60))[1]
    assert {name for name, _ in turns[::2]} == {"ours", "theirs"}
    order = [samples[0] for _, samples in turns[::2]]
    assert sorted(order) == list(range(20)) != order
    assert taken(Schedule(20, 1, 0, 60))[1] == turns != taken(Schedule(20, 1, 0, 60), seed="r/2")[1]


def test_a_pair_by_hand():
    seconds = np.array(
        [[[1.0, 2.0], [1.0, 2.2], [1.0, 1.8], [1.0, 20.0]], [[2.0, 4.0], [1.0, 2.0], [1.0, 2.0], [9.0, 1.0]]]
    )
    found = compare(seconds)  # the two wild ones, and as many of the others, are left out
    assert found.ratio == pytest.approx(2.0)
    assert (found.passes, found.seconds, found.baseline_seconds) == (2, 8.5, 17.5)


def test_what_differs_from_sample_to_sample_is_no_noise():
    seconds = np.array([[[1.0, 2.0], [1.0, 3.0], [1.0, 4.0]]])
    assert compare(np.concatenate([seconds, 2 * seconds])).error == pytest.approx(0.0)
    assert compare(seconds).error > 0.1  # one pass cannot tell


@given(SECONDS)
def test_swapping_the_two_inverts_the_ratio(seconds):
    found, swapped = compare(seconds), compare(seconds[..., ::-1])
    assert swapped.ratio == pytest.approx(1 / found.ratio)
    assert swapped.error == pytest.approx(found.error)


@given(SECONDS, POSITIVE)
def test_what_slows_both_down_changes_nothing(seconds, factor):
    assert compare(factor * seconds).ratio == pytest.approx(compare(seconds).ratio)
