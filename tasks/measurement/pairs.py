"""Two probes side by side that take turns: what disturbs the machine disturbs both, and their ratio is left.

Both write the same work: after the same prompts, as many tokens as their own tokenizers need for the lines' targets.
Sources: Bulej et al., Duet Benchmarking (ICPE 2020); Abedi and Brecht, Conducting Repeatable Experiments in Highly
Variable Cloud Computing Environments (ICPE 2017): randomized multiple interleaved trials.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]
"""[passes, samples, 2]: of the variant and of the baseline."""


class TurnTaker(Protocol):
    """What takes turns: a `ProbeProcess`."""

    def take_turn(self, samples: Sequence[int], timeout_s: float) -> list[float]:
        """Seconds of each of these samples."""
        ...


class Schedule(NamedTuple):
    """How two processes take turns.

    Attributes:
        samples: Number of samples.
        in_turn: Samples in a turn.
        least_s: Seconds after which no further pass over the samples begins.
        timeout_s: Seconds after which a process that takes its turn is killed.
    """

    samples: int
    in_turn: int
    least_s: float
    timeout_s: float


def take_turns(ours: TurnTaker, theirs: TurnTaker, schedule: Schedule, seed: str) -> Seconds:
    """Time both on the same samples, turn by turn; the samples' order, and who begins, are drawn anew.

    Raises:
        ProbeError: one of them failed.
    """
    rng = random.Random(seed)
    passes: list[Seconds] = []
    spent = 0.0
    while not passes or spent < schedule.least_s:
        one_pass = np.empty((schedule.samples, 2))
        for turn in _turns(schedule, rng):
            for place in rng.sample((0, 1), 2):
                one_pass[turn, place] = (ours, theirs)[place].take_turn(turn, schedule.timeout_s)
        passes.append(one_pass)
        spent += float(one_pass.sum())
    return np.stack(passes)


class Pair(NamedTuple):
    """What a pair of processes gave.

    Attributes:
        ratio: How many times as fast ours was: the geometric mean of the middle half of the samples' ratios, so that a
            disturbance that hits one of the two moves it little.
        spread: Half the relative range of that middle half.
        passes: How often each sample was timed.
        seconds: Of ours in the median pass.
        baseline_seconds: Of theirs.
    """

    ratio: float
    spread: float
    passes: int
    seconds: float
    baseline_seconds: float


def compare(seconds: Seconds) -> Pair:
    """The ratio of a pair from its seconds."""
    logs = np.sort(np.log(seconds[..., 1] / seconds[..., 0]), axis=None)
    cut = logs.size // 4
    middle = logs[cut : logs.size - cut]
    ours, theirs = np.median(seconds.sum(axis=1), axis=0).tolist()
    spread = float(np.expm1((middle[-1] - middle[0]) / 2))
    return Pair(float(np.exp(middle.mean())), spread, len(seconds), ours, theirs)


def _turns(schedule: Schedule, rng: random.Random) -> Iterator[list[int]]:
    order = rng.sample(range(schedule.samples), schedule.samples)
    return (order[begin : begin + schedule.in_turn] for begin in range(0, schedule.samples, schedule.in_turn))
