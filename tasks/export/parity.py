"""Parity of two engines: the differences of their logits, and the agreement of their greedy completions.

    python -m slimline.tasks.export.parity REFERENCE_ENGINE DIRECTORY [OTHER_ENGINE DIRECTORY]

Engines are JSON objects, as in a recipe. After every conversion this runs in a new process, so that it compares the
files on disk.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slimline.storage.child_process import ChildExitError, run_json_module
from slimline.tasks.engines.base import CompletionEngine, load_engine
from slimline.tasks.models.checkpoint import read_gpt2_config
from slimline.tasks.runtime.threads import child_environment
from slimline.tasks.specs import Decoding, Engine

_PROMPT_LENGTHS = (1, 2, 7, 24, 60, 100, 180, 240)
_NEW_TOKENS = 10
_REFERENCE_PROMPT = (5, 1, 4, 1, 3, 2)  # ids that every vocabulary has
_REFERENCE_LOGITS = 32
_THREADS = 1


class Parity(NamedTuple):
    """The result of a comparison over some prompts.

    Attributes:
        max_abs: Largest absolute difference of a logit of the token after a prompt.
        size: Largest absolute logit of the first engine.
        greedy_agreement: Share of prompts with the same greedy completion.
        reference: `reference_logits` of the second engine.
    """

    max_abs: float
    size: float
    greedy_agreement: float
    reference: dict[str, list[Any]] = {}  # noqa: RUF012 - never written to


def logits_parity(
    reference: CompletionEngine, other: CompletionEngine, prompts: Sequence[Sequence[int]], new_tokens: int
) -> Parity:
    """Compare the logits after each prompt, and greedy completions of `new_tokens` tokens.

    Raises:
        ValueError: there are no prompts, one is too long or has a wrong token id, the vocabularies differ, or a logit
            is not finite.
    """
    if not prompts:
        raise ValueError("prompts is empty; allowed: at least one")
    decoding = Decoding(fixed_new_tokens=new_tokens)
    differences, sizes, agreements = [], [], []
    for prompt in prompts:
        expected, found = reference.logits(prompt), other.logits(prompt)
        _refuse_not_finite(expected, "the reference")
        _refuse_not_finite(found, "the result")
        if expected.shape != found.shape:
            raise ValueError(f"vocabulary is {len(found)} tokens; allowed: the reference's {len(expected)}")
        differences.append(float(np.abs(expected - found).max()))
        sizes.append(float(np.abs(expected).max()))
        tokens = [engine.complete([prompt], (), decoding)[0].tokens for engine in (reference, other)]
        agreements.append(tokens[0] == tokens[1])
    return Parity(max(differences), max(sizes), float(np.mean(agreements)), reference_logits(other))


def reference_logits(engine: CompletionEngine) -> dict[str, list[Any]]:
    """The largest logits after a fixed prompt, with their token ids: a reference for other loaders of an artifact."""
    logits = engine.logits(_REFERENCE_PROMPT)
    _refuse_not_finite(logits, "the result")
    largest = np.argsort(-logits, kind="stable")[:_REFERENCE_LOGITS]
    return {
        "prompt": list(_REFERENCE_PROMPT),
        "tokens": largest.tolist(),
        "logits": logits[largest].astype(float).tolist(),
    }


def _refuse_not_finite(logits: NDArray[np.float32], whose: str) -> None:
    if not np.isfinite(logits).all():
        raise ValueError(f"logits of {whose} are NaN or infinite")


class Loadable(NamedTuple):
    """An engine and the directory it loads."""

    engine: Engine
    directory: Path


def parity_in_new_process(reference: Loadable, other: Loadable) -> Parity:
    """`logits_parity` of two artifacts on seeded random prompts; a new process loads them from disk.

    Raises:
        RuntimeError: one of them does not load; the message ends with the last line that the process printed.
    """
    return Parity(**_run_in_child(reference, other))


def reference_in_new_process(loadable: Loadable) -> dict[str, list[Any]]:
    """`reference_logits` of an artifact, which a new process loads from disk.

    Raises:
        RuntimeError: it does not load; the message ends with the last line that the process printed.
    """
    logits: dict[str, list[Any]] = _run_in_child(loadable)
    return logits


def _run_in_child(*loadables: Loadable) -> Any:
    arguments = [text for each in loadables for text in (each.engine.model_dump_json(), str(each.directory))]
    try:
        return run_json_module("slimline.tasks.export.parity", *arguments, environment=child_environment(_THREADS))
    except ChildExitError as failure:
        raise RuntimeError(f"{loadables[-1].directory} does not reload: {failure.last_line}") from None


def random_prompts(directory: Path) -> list[list[int]]:
    """Seeded random prompts of several lengths, within the model's vocabulary and positions."""
    config = read_gpt2_config(directory)
    random = np.random.default_rng(0)
    longest = config["n_positions"] - _NEW_TOKENS
    return [
        random.integers(0, config["vocab_size"], length).tolist() for length in _PROMPT_LENGTHS if length <= longest
    ]


def main() -> None:
    """Print the parity of two artifacts, or the reference logits of a single one, as a line of JSON."""
    pairs = zip(sys.argv[1::2], sys.argv[2::2], strict=True)
    loadables = [Loadable(Engine.model_validate_json(engine), Path(directory)) for engine, directory in pairs]
    engines = [load_engine(each.engine, each.directory, _THREADS) for each in loadables]
    if len(engines) == 1:
        print(json.dumps(reference_logits(engines[0])))
        return
    found = logits_parity(engines[0], engines[1], random_prompts(loadables[0].directory), _NEW_TOKENS)
    print(json.dumps(found._asdict()))


if __name__ == "__main__":
    main()
