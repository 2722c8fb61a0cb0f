"""Do two engines compute the same model? Logits side by side, and what greedy decoding makes of them.

    python -m slimline.tasks.export.parity REFERENCE_ENGINE DIRECTORY [OTHER_ENGINE DIRECTORY]

Engines are given as JSON, as in a recipe.

After every conversion this runs as a process of its own, so that what is compared is what was written to disk.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from slimline.storage.child_process import module_command
from slimline.tasks.engines.base import CompletionEngine, load_engine
from slimline.tasks.models.checkpoint import read_gpt2_config
from slimline.tasks.specs import Decoding, Engine

_PROMPT_LENGTHS = (1, 2, 7, 24, 60, 100, 180, 240)
_NEW_TOKENS = 10
_REFERENCE_PROMPT = (5, 1, 4, 1, 3, 2)  # ids that every vocabulary has
_REFERENCE_LOGITS = 32


class Parity(NamedTuple):
    """How far `other` is from `reference` over the given prompts."""

    max_abs: float
    """Largest absolute difference of any logit of the token after a prompt."""
    greedy_agreement: float
    """Share of prompts whose greedy continuations are the same tokens."""
    reference: dict[str, list[Any]] = {}  # noqa: RUF012 - never written to
    """`reference_logits` of the other engine."""


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
    return Parity(max(differences), float(np.mean(agreements)), reference_logits(other))


def reference_logits(engine: CompletionEngine) -> dict[str, list[Any]]:
    """What anybody who loads the artifact should find: the largest logits after a fixed prompt, by token id."""
    logits = engine.logits(_REFERENCE_PROMPT)
    largest = np.argsort(-logits, kind="stable")[:_REFERENCE_LOGITS]
    return {
        "prompt": list(_REFERENCE_PROMPT),
        "tokens": largest.tolist(),
        "logits": logits[largest].astype(float).tolist(),
    }


class Loadable(NamedTuple):
    """An engine and the directory it loads."""

    engine: Engine
    directory: Path


def parity_in_new_process(reference: Loadable, other: Loadable) -> Parity:
    """`logits_parity` of two artifacts, reloaded from disk by a fresh process, on seeded random prompts.

    Raises:
        RuntimeError: one of them does not load there; the message ends with what the process said last.
    """
    return Parity(**_in_new_process(reference, other))


def reference_in_new_process(loadable: Loadable) -> dict[str, list[Any]]:
    """`reference_logits` of an artifact, reloaded from disk by a fresh process.

    Raises RuntimeError if it does not load there.
    """
    found: dict[str, list[Any]] = _in_new_process(loadable)
    return found


def _in_new_process(*loadables: Loadable) -> Any:
    words = [word for loadable in loadables for word in _words(loadable)]
    command = module_command("slimline.tasks.export.parity", *words)
    finished = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own module
    if finished.returncode:
        raise RuntimeError(f"{loadables[-1].directory} does not reload: {' '.join(finished.stderr.splitlines()[-1:])}")
    return json.loads(finished.stdout.splitlines()[-1])


def _words(loadable: Loadable) -> list[str]:
    return [loadable.engine.model_dump_json(), str(loadable.directory)]


def random_prompts(directory: Path) -> list[list[int]]:
    """Seeded prompts of several lengths that fit the model's vocabulary and positions."""
    config = read_gpt2_config(directory)
    random = np.random.default_rng(0)
    longest = config["n_positions"] - _NEW_TOKENS
    return [
        random.integers(0, config["vocab_size"], length).tolist() for length in _PROMPT_LENGTHS if length <= longest
    ]


def main() -> None:
    """Print, as a line of JSON, the parity of the two artifacts named, or the reference logits of the only one."""
    words = zip(sys.argv[1::2], sys.argv[2::2], strict=True)
    loadables = [Loadable(Engine.model_validate_json(engine), Path(place)) for engine, place in words]
    engines = [load_engine(each.engine, each.directory, threads=1) for each in loadables]
    if len(engines) == 1:
        print(json.dumps(reference_logits(engines[0])))
        return
    found = logits_parity(engines[0], engines[1], random_prompts(loadables[0].directory), _NEW_TOKENS)
    print(json.dumps(found._asdict()))


if __name__ == "__main__":
    main()
