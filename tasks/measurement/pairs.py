"""Two probes side by side that take turns: what disturbs the machine disturbs both, and their ratio is left.

Both write the same work: after the same prompts, as many tokens as their own tokenizers need for the lines' targets.
Sources: Bulej et al., Duet Benchmarking (ICPE 2020); Abedi and Brecht, Conducting Repeatable Experiments in Highly
Variable Cloud Computing Environments (ICPE 2017): randomized multiple interleaved trials.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]
"""[passes, samples, 2]: of the variant and of the baseline."""

PRECISE = 0.015
"""Relative standard error of a pair's ratio at which no further pass begins: what a process is lucky or unlucky by."""
LONGEST = 2
"""Times the least seconds of a pair after which it ends, however noisy it is."""
_CUT = 0.25  # share of the samples' ratios that is left out at either end


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
        least_s: Seconds that a pair lasts at least; `LONGEST` times as many at most, unless one pass takes longer.
        timeout_s: Seconds after which a process that takes its turn is killed.
    """

    samples: int
    in_turn: int
    least_s: float
    timeout_s: float


def take_turns(ours: TurnTaker, theirs: TurnTaker, schedule: Schedule, seed: str) -> Seconds:
    """Time both on the same samples, turn by turn, until their ratio is precise enough or its time is over.

    The samples' order, and who begins, are drawn anew for each pass.

    Raises:
        ProbeError: one of them failed.
    """
    rng = random.Random(seed)
    passes: list[Seconds] = []
    spent = 0.0
    while (
        not passes
        or spent < schedule.least_s
        or (spent < LONGEST * schedule.least_s and _error(np.stack(passes)) > PRECISE)
    ):
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
        error: The ratio's standard error, relative: of the noise within the pair.
        passes: How often each sample was timed.
        seconds: Of ours in the median pass.
        baseline_seconds: Of theirs.
    """

    ratio: float
    error: float
    passes: int
    seconds: float
    baseline_seconds: float


def compare(seconds: Seconds) -> Pair:
    """The ratio of a pair from its seconds."""
    logs = np.sort(_log_ratios(seconds), axis=None)
    cut = int(_CUT * logs.size)
    ours, theirs = np.median(seconds.sum(axis=1), axis=0).tolist()
    ratio = float(np.exp(logs[cut : logs.size - cut].mean()))
    return Pair(ratio, _error(seconds), len(seconds), ours, theirs)


def _log_ratios(seconds: Seconds) -> NDArray[np.float64]:
    ratios: NDArray[np.float64] = np.log(seconds[..., 1] / seconds[..., 0])
    return ratios


def _error(seconds: Seconds) -> float:
    """Standard error of a trimmed mean (Tukey and McLaughlin, Sankhya A 25, 1963): that of the winsorized values.

    What differs from sample to sample is no noise, as every pair has the same samples: the values are each sample's
    distances from its own mean, with the degrees of freedom that this takes. A single pass cannot tell the two apart.
    """
    logs, passes = _log_ratios(seconds), len(seconds)
    own = logs.mean(axis=0) if passes > 1 else logs.mean()
    values = np.sort(logs - own, axis=None)
    cut = int(_CUT * values.size)
    winsorized = values.clip(values[cut], values[values.size - cut - 1])
    freedom = (passes - 1) / passes if passes > 1 else 1.0
    return float(winsorized.std() / ((1 - 2 * _CUT) * math.sqrt(values.size * freedom)))


def _turns(schedule: Schedule, rng: random.Random) -> Iterator[list[int]]:
    order = rng.sample(range(schedule.samples), schedule.samples)
    return (order[begin : begin + schedule.in_turn] for begin in range(0, schedule.samples, schedule.in_turn))
