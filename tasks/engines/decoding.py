"""Greedy and beam search over any model that can prefill, step and reorder its key/value cache. numpy only."""

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
    """A model with a key/value cache: the state of one batch, advanced token by token.

    What it returns are the logits of each row's next token, which may be overwritten by the next call.
    """

    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> Logits:
        """Starts a batch with space for `room` more tokens a row; returns [batch, vocabulary]."""
        ...

    def step(self, tokens: Rows) -> Logits:
        """Appends one token to every row ([rows]); returns [rows, vocabulary]."""
        ...

    def reorder(self, parents: Rows) -> None:
        """Row i goes on from what was row `parents[i]`; the number of rows may change."""
        ...


def search(
    model: CachedModel, prompts: Sequence[Sequence[int]], stop: Collection[int], decoding: Decoding
) -> list[Completion]:
    """Completes `prompts`: greedily as one batch, or each by a beam search of its own."""
    ends, room = ends_of(stop, decoding), new_tokens(decoding)
    if decoding.beams == 1:
        return greedy_search(model, prompts, ends, room)
    return [beam_search(model, prompt, ends, room, decoding.beams) for prompt in prompts]


def ends_of(stop: Collection[int], decoding: Decoding) -> frozenset[int]:
    """The tokens that end a completion: none where its length is fixed."""
    return frozenset() if decoding.fixed_new_tokens else frozenset(stop)


def greedy_search(
    model: CachedModel, prompts: Sequence[Sequence[int]], stop: frozenset[int], room: int
) -> list[Completion]:
    """The most probable token each time, up to a stop token or `room` tokens; ties go to the lower id."""
    begin = perf_counter()
    tokens = model.prefill(prompts, room).argmax(axis=-1)
    first = perf_counter()
    columns = [tokens]
    ended = _among(tokens, stop)
    while len(columns) < room and not ended.all():
        tokens = model.step(tokens).argmax(axis=-1)
        columns.append(tokens)
        ended |= _among(tokens, stop)
    seconds = (first - begin) / len(prompts), (perf_counter() - first) / len(prompts)
    return [Completion(until_stop(row.tolist(), stop), *seconds) for row in np.stack(columns, axis=1)]


def beam_search(model: CachedModel, prompt: Sequence[int], stop: frozenset[int], room: int, size: int) -> Completion:
    """CodeXGLUE's beam search (its CodeCompletion-token/code/beam.py): log-probabilities, not normalised by length."""
    begin = perf_counter()
    beam = Beam(size, stop)
    beam.advance(log_softmax(model.prefill([prompt], room)))
    first = perf_counter()
    for _ in range(room - 1):
        if beam.done:
            break
        model.reorder(beam.parents[-1])
        beam.advance(log_softmax(model.step(beam.tokens[-1])))
    return Completion(until_stop(beam.best(), stop), first - begin, perf_counter() - first)


class _End(NamedTuple):
    score: float
    length: int
    row: int


class Beam:
    """The `size` best hypotheses after each token. One that ends in a stop token is finished and has no children."""

    def __init__(self, size: int, stop: frozenset[int]) -> None:
        self.tokens: list[Rows] = []
        self.parents: list[Rows] = []
        self._size = size
        self._stop = stop
        self._scores = np.zeros(1, dtype=np.float32)
        self._finished: list[_End] = []
        self._stop_on_top = False

    def advance(self, log_probabilities: NDArray[np.float32]) -> None:
        """Takes one more token; `log_probabilities` is [rows, vocabulary], rows in the order of the last `tokens`."""
        scores = log_probabilities + self._scores[:, None]
        if self.tokens:
            scores[_among(self.tokens[-1], self._stop)] = _NO_CHILDREN
        best = _top(scores.ravel(), self._size)
        self._scores = scores.ravel()[best]
        parents, tokens = np.divmod(best, scores.shape[1])
        self.parents.append(parents)
        self.tokens.append(tokens)
        ended = _among(tokens, self._stop)
        self._finished += [_End(float(self._scores[row]), len(self.tokens), int(row)) for row in np.flatnonzero(ended)]
        self._stop_on_top |= bool(ended[0])

    @property
    def done(self) -> bool:
        """A stop token has topped the beam, and at least `size` hypotheses have finished."""
        return self._stop_on_top and len(self._finished) >= self._size

    def best(self) -> list[int]:
        """Tokens of the best finished hypothesis; of the best unfinished one if none has finished."""
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


def until_stop(tokens: Sequence[int], stop: Collection[int]) -> list[int]:
    """`tokens` up to, and without, the first stop token."""
    end = next((index for index, token in enumerate(tokens) if token in stop), len(tokens))
    return list(tokens[:end])


def _among(tokens: Rows, stop: frozenset[int]) -> NDArray[np.bool_]:
    # Called once a token for a handful of rows: numpy's isin would take longer than what it saves.
    return np.array([token in stop for token in tokens.tolist()], dtype=np.bool_)


def _top(scores: NDArray[np.float32], size: int) -> Rows:
    """Indices of the `size` largest scores, best first; ties go to the lower index."""
    kept = np.sort(np.argpartition(-scores, min(size, scores.size) - 1)[:size])
    return kept[np.argsort(-scores[kept], kind="stable")].astype(np.int64)
