"""Prompt-lookup speculation: greedy search that checks several guessed tokens in one pass of the model.

What follows is often what followed the same few tokens before (Saxena 2023, github.com/apoorvumang/
prompt-lookup-decoding): the guess is copied from there. The model says in one pass what it would have chosen after each
guessed token; guesses are kept up to the first that it would not have chosen (speculative decoding, arXiv:2211.17192,
for greedy choices). So the tokens are those of greedy search, however bad the guesses.

There is always a guess: engines add up the attention of a single token in another order than that of several, and if
single tokens came between, the last bit of a logit would depend on where guesses were found.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from time import perf_counter
from typing import Protocol

import numpy as np

from slimline.tasks.engines.base import Completion, Logits, new_tokens
from slimline.tasks.engines.decoding import CachedModel, Rows, ends_of, search, until_stop
from slimline.tasks.specs import Decoding

_LONGEST_MATCH = 3


class VerifyingModel(CachedModel, Protocol):
    """A `CachedModel` whose single row can take several tokens at once, and forget the last ones again."""

    def verify(self, tokens: Rows) -> Logits:
        """Appends the tokens ([n]) to the only row; returns [n, vocabulary], the logits after each."""
        ...

    def rollback(self, count: int) -> None:
        """Forgets the only row's last `count` tokens."""
        ...


def speculative_search(
    model: VerifyingModel, prompts: Sequence[Sequence[int]], stop: Collection[int], decoding: Decoding, drafts: int
) -> list[Completion]:
    """`search` with up to `drafts` guessed tokens a pass where that helps: for one prompt, greedily."""
    if drafts and decoding.beams == 1 and len(prompts) == 1:
        return [lookup_search(model, prompts[0], ends_of(stop, decoding), new_tokens(decoding), drafts)]
    return search(model, prompts, stop, decoding)


def lookup_search(
    model: VerifyingModel, prompt: Sequence[int], stop: frozenset[int], room: int, drafts: int
) -> Completion:
    """Greedy search for one prompt, up to a stop token or `room` tokens, with up to `drafts` guesses a pass."""
    begin = perf_counter()
    context = np.empty(len(prompt) + room, dtype=np.int64)
    context[: len(prompt)] = prompt
    chosen = model.prefill([prompt], room).argmax(axis=-1)
    first = perf_counter()
    length = len(prompt)
    while True:
        context[length : length + len(chosen)] = chosen
        length += len(chosen)
        left = len(context) - length
        if not left or not stop.isdisjoint(chosen.tolist()):
            break
        # A pass yields one token more than it was given guesses.
        guess = propose(context[:length], max(1, min(drafts, left - 1)))
        chosen = _advance(model, context[length - 1 : length], guess)[:left]
    tokens = until_stop(context[len(prompt) : length].tolist(), stop)
    return Completion(tokens, first - begin, perf_counter() - first)


def _advance(model: VerifyingModel, last: Rows, guess: Rows) -> Rows:
    """The next tokens after `last` ([1]): as many guesses as the model would have chosen, and its choice after them."""
    choices = model.verify(np.concatenate([last, guess])).argmax(axis=-1)
    wrong = np.flatnonzero(choices[:-1] != guess)
    kept = int(wrong[0]) if len(wrong) else len(guess)
    model.rollback(len(guess) - kept)
    return np.asarray(choices[: kept + 1])


def propose(context: Rows, count: int) -> Rows:
    """`count` tokens: those that followed the context's last three tokens where these occurred last before.

    Where the context ends, the guess goes on with its own beginning, as repetitions do. If the three never occurred,
    the last two are looked for; then the last one, which says too little for more than one guess; and if that did not
    occur before either, it is guessed again.
    """
    for length in range(min(_LONGEST_MATCH, len(context) - 1), 0, -1):
        earlier = np.lib.stride_tricks.sliding_window_view(context[:-1], length)
        matches = np.flatnonzero((earlier == context[-length:]).all(axis=1))
        if len(matches):
            followed = context[int(matches[-1]) + length :]
            return np.resize(followed, count if length > 1 else 1)
    return context[-1:]
