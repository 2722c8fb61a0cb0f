"""Drafts from the prompt: what is guessed, and that guesses change how many passes it takes but not what comes out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimline.tasks.engines.base import Logits
from slimline.tasks.engines.lookup import lookup_search, propose, speculative_search
from slimline.tasks.engines.search import Rows, greedy_search
from slimline.tasks.specs import Decoding

VOCABULARY = 5


class Table:
    """A model whose next token's logits depend, at random, on the last few tokens; it refuses to hold too many."""

    def __init__(self, seed: int, memory: int) -> None:
        self._seed, self._memory = seed, memory
        self.rows: list[list[int]] = []
        self._capacity = 0
        self.passes = 0

    def prefill(self, prompts: Sequence[Sequence[int]], limit: int) -> Logits:
        self.rows = [list(prompt) for prompt in prompts]
        self._capacity = max(map(len, prompts)) + limit
        return np.stack([self._after(row) for row in self.rows])

    def step(self, tokens: Rows) -> Logits:
        for row, token in zip(self.rows, tokens.tolist(), strict=True):
            row.append(token)
        return np.stack([self._after(row) for row in self.rows])

    def reorder(self, parents: Rows) -> None:
        self.rows = [self.rows[parent].copy() for parent in parents]

    def verify(self, tokens: Rows) -> Logits:
        (row,) = self.rows
        self.passes += 1
        row.extend(tokens.tolist())
        assert len(row) <= self._capacity
        first = len(row) - len(tokens)
        return np.stack([self._after(row[: index + 1]) for index in range(first, len(row))])

    def rollback(self, count: int) -> None:
        (row,) = self.rows
        del row[len(row) - count :]

    def _after(self, row: Sequence[int]) -> Logits:
        rng = np.random.default_rng([self._seed, *row[-self._memory :]])
        # Small whole numbers: ties are frequent, and go to the lower token.
        return rng.integers(0, 6, VOCABULARY).astype(np.float32)


@settings(max_examples=200)
@given(
    seed=st.integers(0, 10_000),
    memory=st.integers(1, 4),
    prompt=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12),
    stop=st.frozensets(st.integers(0, VOCABULARY - 1), max_size=2),
    limit=st.integers(1, 30),
    drafts=st.integers(1, 8),
)
def test_the_tokens_are_those_of_greedy_search(
    seed: int, memory: int, prompt: list[int], stop: frozenset[int], limit: int, drafts: int
) -> None:
    model = Table(seed, memory)
    expected = greedy_search(Table(seed, memory), [prompt], stop, limit)[0].tokens
    assert lookup_search(model, prompt, stop, limit, drafts).tokens == expected
    # Nothing is held that was not kept, but for a stop token and what the model chose after it.
    kept = model.rows[0][len(prompt) :]
    assert kept[: len(expected)] == expected[: len(kept)]


@given(seed=st.integers(0, 10_000), drafts=st.integers(1, 8))
def test_a_stop_token_within_a_draft_ends_the_completion(seed: int, drafts: int) -> None:
    prompt = [0, 1, 2, 3, 4, 0, 1, 2]
    free = greedy_search(Table(seed, 2), [prompt], frozenset(), 20)[0].tokens
    stop = frozenset({free[5]})
    assert lookup_search(Table(seed, 2), prompt, stop, 20, drafts).tokens == free[: free.index(free[5])]


def test_repetition_takes_fewer_passes() -> None:
    """Of a model that looks at one token only, what follows repeats; then every guess is right."""
    model = Table(3, memory=1)
    completion = lookup_search(model, [0], frozenset(), 61, drafts=4)
    assert completion.tokens == greedy_search(Table(3, memory=1), [[0]], frozenset(), 61)[0].tokens
    assert model.passes <= 60 / 5 + VOCABULARY


@pytest.mark.parametrize(
    ("context", "count", "guess"),
    [
        ([1, 2, 3, 7, 8, 9, 1, 2, 3], 2, [7, 8]),  # three tokens
        ([1, 2, 3, 7, 8, 9, 1, 2, 3], 9, [7, 8, 9, 1, 2, 3, 7, 8, 9]),  # beyond the end
        ([1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3], 2, [8, 1]),  # where they occurred last
        ([9, 2, 3, 7, 8, 1, 2, 3], 2, [7, 8]),  # two tokens
        ([9, 3, 7, 8, 1, 2, 3], 2, [7]),  # one token
        ([1, 2, 3], 2, [3]),  # nothing
        ([4, 4, 4, 4], 2, [4, 4]),  # three tokens, overlapping
        ([5], 3, [5]),
    ],
)
def test_guesses_are_what_followed_before(context: list[int], count: int, guess: list[int]) -> None:
    assert propose(np.array(context), count).tolist() == guess


@pytest.mark.parametrize(
    "decoding", [Decoding(max_new_tokens=9), Decoding(fixed_new_tokens=9), Decoding(beams=2, max_new_tokens=9)], ids=str
)
@pytest.mark.parametrize("prompts", [[[1, 2]], [[1, 2], [3, 4]]], ids=["one", "two"])
def test_drafts_are_for_one_prompt_at_a_time_and_change_nothing(prompts: list[list[int]], decoding: Decoding) -> None:
    found = speculative_search(Table(1, 2), prompts, {0}, decoding, 3)
    without = speculative_search(Table(1, 2), prompts, {0}, decoding, 0)
    assert [completion.tokens for completion in found] == [completion.tokens for completion in without]
