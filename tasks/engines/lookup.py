"""Prompt-lookup decoding: greedy search that verifies several draft tokens in one pass of the model.

The tokens that followed the same few tokens before are a good guess for the next ones (Saxena 2023,
github.com/apoorvumang/prompt-lookup-decoding). One pass of the model gives its choice after each draft token; drafts
are accepted up to the first that differs (speculative decoding, arXiv:2211.17192, for greedy choices). So the tokens
are those of greedy search, whatever the drafts are.

Every pass has a draft: engines sum the attention of a single token in another order than that of several tokens, and
otherwise the last bit of a logit would depend on where drafts were found.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from time import perf_counter
from typing import Protocol

import numpy as np

from slimline.tasks.engines.base import Completion, Logits, new_tokens
from slimline.tasks.engines.search import CachedModel, Rows, cut_at_stop, end_tokens, search
from slimline.tasks.specs import Decoding

_LONGEST_MATCH = 3


class VerifyingModel(CachedModel, Protocol):
    """A `CachedModel` that can append several tokens to a single row at once, and remove the last ones again."""

    def verify(self, tokens: Rows) -> Logits:
        """Append tokens ([n]) to the only row; returns the logits after each of them, [n, vocabulary]."""
        ...

    def rollback(self, count: int) -> None:
        """Remove the last `count` tokens of the only row."""
        ...


def speculative_search(
    model: VerifyingModel, prompts: Sequence[Sequence[int]], stop: Collection[int], decoding: Decoding, drafts: int
) -> list[Completion]:
    """`search`; for one prompt and greedy search with up to `drafts` draft tokens per pass."""
    if drafts and decoding.beams == 1 and len(prompts) == 1:
        return [lookup_search(model, prompts[0], end_tokens(stop, decoding), new_tokens(decoding), drafts)]
    return search(model, prompts, stop, decoding)


def lookup_search(
    model: VerifyingModel, prompt: Sequence[int], stop: frozenset[int], limit: int, drafts: int
) -> Completion:
    """Greedy search for one prompt until a stop token or `limit` tokens, with up to `drafts` draft tokens per pass."""
    begin = perf_counter()
    context = np.empty(len(prompt) + limit, dtype=np.int64)
    context[: len(prompt)] = prompt
    chosen = model.prefill([prompt], limit).argmax(axis=-1)
    first = perf_counter()
    length = len(prompt)
    while True:
        context[length : length + len(chosen)] = chosen
        length += len(chosen)
        left = len(context) - length
        if not left or not stop.isdisjoint(chosen.tolist()):
            break
        # A pass gives one token more than the drafts.
        draft = propose(context[:length], max(1, min(drafts, left - 1)))
        chosen = _verify_draft(model, context[length - 1 : length], draft)[:left]
    tokens = cut_at_stop(context[len(prompt) : length].tolist(), stop)
    return Completion(tokens, first - begin, perf_counter() - first)


def _verify_draft(model: VerifyingModel, last: Rows, draft: Rows) -> Rows:
    """The next tokens after `last` ([1]): the draft tokens that the model accepts, and its choice after them."""
    choices = model.verify(np.concatenate([last, draft])).argmax(axis=-1)
    wrong = np.flatnonzero(choices[:-1] != draft)
    accepted = int(wrong[0]) if len(wrong) else len(draft)
    model.rollback(len(draft) - accepted)
    return np.asarray(choices[: accepted + 1])


def propose(context: Rows, count: int) -> Rows:
    """Draft tokens: the `count` tokens that followed the last earlier occurrence of the context's last three tokens.

    At the end of the context the draft continues with its own beginning, as repetitions do. If the three tokens did not
    occur before, the last two are searched; then the last one, which gives one draft token only. If that did not occur
    either, it is itself the draft.
    """
    for length in range(min(_LONGEST_MATCH, len(context) - 1), 0, -1):
        earlier = np.lib.stride_tricks.sliding_window_view(context[:-1], length)
        matches = np.flatnonzero((earlier == context[-length:]).all(axis=1))
        if len(matches):
            followed = context[int(matches[-1]) + length :]
            return np.resize(followed, count if length > 1 else 1)
    return context[-1:]
