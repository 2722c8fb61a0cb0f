"""Greedy search and beam search for models with a key/value cache, in numpy."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from time import perf_counter
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from slimline.tasks.engines.base import Completion, Logits, new_tokens
from slimline.tasks.specs import Decoding

Rows = NDArray[np.int64]
_NO_CHILDREN = np.float32(-1e20)


class CachedModel(Protocol):
    """A model with a key/value cache for one batch, which its methods extend token by token.

    They return the logits of each row's next token; the next call may overwrite these.
    """

    def prefill(self, prompts: Sequence[Sequence[int]], limit: int) -> Logits:
        """Start a batch with space for `limit` more tokens per row; returns logits [batch, vocabulary]."""
        ...

    def step(self, tokens: Rows) -> Logits:
        """Append one token to every row ([rows]); returns logits [rows, vocabulary]."""
        ...

    def reorder(self, parents: Rows) -> None:
        """Continue row i from the previous row `parents[i]`; the number of rows may change."""
        ...


def search(
    model: CachedModel, prompts: Sequence[Sequence[int]], stop: Collection[int], decoding: Decoding
) -> list[Completion]:
    """Complete `prompts`, either by a greedy search in one batch or by a beam search for each prompt."""
    ends, limit = end_tokens(stop, decoding), new_tokens(decoding)
    if decoding.beams == 1:
        return greedy_search(model, prompts, ends, limit)
    return [beam_search(model, prompt, ends, limit, decoding.beams) for prompt in prompts]


def end_tokens(stop: Collection[int], decoding: Decoding) -> frozenset[int]:
    """The tokens that end a completion; none if its length is fixed."""
    return frozenset() if decoding.fixed_new_tokens else frozenset(stop)


def greedy_search(
    model: CachedModel, prompts: Sequence[Sequence[int]], stop: frozenset[int], limit: int
) -> list[Completion]:
    """Choose the most probable token (of equal ones: the lowest id) until a stop token or `limit` tokens."""
    begin = perf_counter()
    tokens = model.prefill(prompts, limit).argmax(axis=-1)
    first = perf_counter()
    columns = [tokens]
    ended = _is_stop(tokens, stop)
    while len(columns) < limit and not ended.all():
        tokens = model.step(tokens).argmax(axis=-1)
        columns.append(tokens)
        ended |= _is_stop(tokens, stop)
    seconds = (first - begin) / len(prompts), (perf_counter() - first) / len(prompts)
    return [Completion(cut_at_stop(row.tolist(), stop), *seconds) for row in np.stack(columns, axis=1)]


def beam_search(model: CachedModel, prompt: Sequence[int], stop: frozenset[int], limit: int, size: int) -> Completion:
    """CodeXGLUE's beam search (its CodeCompletion-token/code/beam.py); scores are not normalised by length."""
    begin = perf_counter()
    beam = Beam(size, stop)
    beam.advance(log_softmax(model.prefill([prompt], limit)))
    first = perf_counter()
    for _ in range(limit - 1):
        if beam.is_done:
            break
        model.reorder(beam.parents[-1])
        beam.advance(log_softmax(model.step(beam.tokens[-1])))
    return Completion(cut_at_stop(beam.best(), stop), first - begin, perf_counter() - first)


class _End(NamedTuple):
    score: float
    length: int
    row: int


class Beam:
    """The `size` best hypotheses after each token; one with a stop token at its end is not continued."""

    def __init__(self, size: int, stop: frozenset[int]) -> None:
        self.tokens: list[Rows] = []
        self.parents: list[Rows] = []
        self._size = size
        self._stop = stop
        self._scores = np.zeros(1, dtype=np.float32)
        self._finished: list[_End] = []
        self._stop_on_top = False

    def advance(self, log_probabilities: NDArray[np.float32]) -> None:
        """Extend the hypotheses by a token.

        Args:
            log_probabilities: [rows, vocabulary], with rows in the order of the last `tokens`.
        """
        scores = log_probabilities + self._scores[:, None]
        if self.tokens:
            scores[_is_stop(self.tokens[-1], self._stop)] = _NO_CHILDREN
        best = _top(scores.ravel(), self._size)
        self._scores = scores.ravel()[best]
        parents, tokens = np.divmod(best, scores.shape[1])
        self.parents.append(parents)
        self.tokens.append(tokens)
        ended = _is_stop(tokens, self._stop)
        self._finished += [_End(float(self._scores[row]), len(self.tokens), int(row)) for row in np.flatnonzero(ended)]
        self._stop_on_top |= bool(ended[0])

    @property
    def is_done(self) -> bool:
        """Whether a stop token was the best token once, and at least `size` hypotheses have finished."""
        return self._stop_on_top and len(self._finished) >= self._size

    def best(self) -> list[int]:
        """Tokens of the best finished hypothesis, or of the best unfinished one if none has finished."""
        top = _End(float(self._scores[0]), len(self.tokens), 0)
        _, length, row = max(self._finished, key=lambda end: end.score, default=top)
        tokens = []
        for step in reversed(range(length)):
            tokens.append(int(self.tokens[step][row]))
            row = int(self.parents[step][row])
        return tokens[::-1]


def log_softmax(logits: Logits) -> Logits:
    """Log-probabilities over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), dtype=np.float32)


def cut_at_stop(tokens: Sequence[int], stop: Collection[int]) -> list[int]:
    """The tokens before the first stop token."""
    end = next((index for index, token in enumerate(tokens) if token in stop), len(tokens))
    return list(tokens[:end])


def _is_stop(tokens: Rows, stop: frozenset[int]) -> NDArray[np.bool_]:
    # With so few rows, this is faster than numpy's isin.
    return np.array([token in stop for token in tokens.tolist()], dtype=np.bool_)


def _top(scores: NDArray[np.float32], size: int) -> Rows:
    """Indices of the `size` largest scores, best first; of equal scores the lowest index first."""
    largest = np.sort(np.argpartition(-scores, min(size, scores.size) - 1)[:size])
    return largest[np.argsort(-scores[largest], kind="stable")].astype(np.int64)
