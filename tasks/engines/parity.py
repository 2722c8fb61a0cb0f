"""Do two engines compute the same model? Logits side by side, and what greedy decoding makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tasks.engines.base import CompletionEngine
from tasks.specs import Decoding


class Parity(NamedTuple):
    """How far `other` is from `reference` over the given prompts."""

    max_abs: float
    """Largest absolute difference of any logit of the token after a prompt."""
    greedy_agreement: float
    """Share of prompts whose greedy continuations are the same tokens."""


def logits_parity(
    reference: CompletionEngine, other: CompletionEngine, prompts: Sequence[Sequence[int]], new_tokens: int
) -> Parity:
    """Compares the logits after each prompt, and `new_tokens` greedy tokens from there.

    Raises:
        ValueError: there are no prompts, one does not fit a model, or the vocabularies differ.
    """
    if not prompts:
        raise ValueError("prompts is empty; allowed: at least one")
    decoding = Decoding(fixed_new_tokens=new_tokens)
    differences, agreements = [], []
    for prompt in prompts:
        expected, found = reference.logits(prompt), other.logits(prompt)
        if expected.shape != found.shape:
            raise ValueError(f"vocabulary is {len(found)} tokens; allowed: the reference's {len(expected)}")
        differences.append(float(np.abs(expected - found).max()))
        tokens = [engine.complete([prompt], (), decoding)[0].tokens for engine in (reference, other)]
        agreements.append(tokens[0] == tokens[1])
    return Parity(max(differences), float(np.mean(agreements)))
