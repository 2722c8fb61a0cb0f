"""Greedy and beam search over tables of logits, against an independent statement of the same rules."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimline.tasks.engines.base import Logits
from slimline.tasks.engines.search import Rows, beam_search, cut_at_stop, greedy_search, log_softmax

VOCABULARY = 5


class Table:
    """A model whose next token's logits depend, at random, on all tokens so far."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._rows: list[tuple[int, ...]] = []
        self.steps = 0

    def row(self, tokens: tuple[int, ...]) -> Logits:
        return np.random.default_rng([self._seed, *tokens]).normal(size=VOCABULARY).astype(np.float32)

    def prefill(self, prompts: Sequence[Sequence[int]], limit: int) -> Logits:
        self._rows = [tuple(prompt) for prompt in prompts]
        return self._logits()

    def step(self, tokens: Rows) -> Logits:
        self.steps += 1
        self._rows = [(*row, int(token)) for row, token in zip(self._rows, tokens, strict=True)]
        return self._logits()

    def reorder(self, parents: Rows) -> None:
        self._rows = [self._rows[parent] for parent in parents]

    def _logits(self) -> Logits:
        return np.stack([self.row(row) for row in self._rows])


def stated_beam(model: Table, prompt: tuple[int, ...], stop: frozenset[int], limit: int, size: int) -> list[int]:
    """The description of CodeXGLUE's beam, over whole hypotheses: nothing is traced back."""
    beam, finished, stop_on_top = [(0.0, ())], [], False
    for step in range(limit):
        grown = [
            (score + float(logp), (*tokens, token))
            for score, tokens in beam
            if not (tokens and tokens[-1] in stop)
            for token, logp in enumerate(log_softmax(model.row(prompt + tokens)))
        ]
        ended = [(-math.inf, tokens) for _, tokens in beam if step and tokens[-1] in stop]
        beam = sorted(grown, key=lambda item: -item[0])[:size]
        beam += ended[: size - len(beam)]
        finished += [item for item in beam if item[1][-1] in stop and item[0] > -math.inf]
        stop_on_top |= beam[0][1][-1] in stop
        if stop_on_top and len(finished) >= size:
            break
    best = max(finished, key=lambda item: item[0], default=beam[0])
    return cut_at_stop(best[1], stop)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(2, 5),
    limit=st.integers(1, 6),
    stop=st.sets(st.integers(0, 4), max_size=2),
)
def test_beam_search_follows_its_description(seed: int, size: int, limit: int, stop: set[int]) -> None:
    found = beam_search(Table(seed), [1, 2], frozenset(stop), limit, size).tokens
    assert found == stated_beam(Table(seed), (1, 2), frozenset(stop), limit, size)


def test_a_beam_as_wide_as_everything_finds_the_most_probable_sequence() -> None:
    model = Table(7)
    scores = {
        (a, b): log_softmax(model.row((1,)))[a] + log_softmax(model.row((1, a)))[b]
        for a in range(VOCABULARY)
        for b in range(VOCABULARY)
    }
    assert beam_search(model, [1], frozenset(), 2, VOCABULARY).tokens == list(max(scores, key=lambda key: scores[key]))


@given(seed=st.integers(0, 10_000), limit=st.integers(1, 6), stop=st.sets(st.integers(0, 4), max_size=2))
@settings(deadline=None, max_examples=40)
def test_greedy_rows_do_not_see_each_other(seed: int, limit: int, stop: set[int]) -> None:
    prompts = [[1], [2, 3], [4, 0, 1]]
    together = greedy_search(Table(seed), prompts, frozenset(stop), limit)
    alone = [greedy_search(Table(seed), [prompt], frozenset(stop), limit)[0] for prompt in prompts]
    assert [completion.tokens for completion in together] == [completion.tokens for completion in alone]
    assert all(len(completion.tokens) <= limit for completion in together)


def test_greedy_stops_computing_when_every_row_has_ended() -> None:
    model = Table(0)
    greedy_search(model, [[1], [2]], frozenset(range(VOCABULARY)), 50)
    assert model.steps == 0


def test_log_softmax_survives_large_logits() -> None:
    row = log_softmax(np.array([[1e4, 0.0, -1e4]], dtype=np.float32))
    assert row.dtype == np.float32
    np.testing.assert_allclose(np.exp(row).sum(), 1.0)


@pytest.mark.parametrize(("tokens", "kept"), [([1, 2, 9, 3], [1, 2]), ([9], []), ([1], [1])])
def test_until_stop(tokens: list[int], kept: list[int]) -> None:
    assert cut_at_stop(tokens, {9}) == kept
