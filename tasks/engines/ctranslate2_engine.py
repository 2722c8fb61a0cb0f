"""The CTranslate2 engine, which loads a directory written by `export_ctranslate2`."""

from __future__ import annotations

import json
import logging
import weakref
from collections.abc import Collection, Sequence
from pathlib import Path
from time import perf_counter

import ctranslate2
import numpy as np

from slimline.tasks.engines.base import Completion, Logits, check_prompts, new_tokens
from slimline.tasks.models.checkpoint import CheckpointError
from slimline.tasks.models.external import limits_of
from slimline.tasks.specs import Decoding, Engine


class Ctranslate2Engine:
    """A `CompletionEngine` with CTranslate2's greedy search on the CPU.

    Prompts run one after the other, because the library does not pad: with prompts of different lengths it computes as
    many tokens at once as the shortest prompt has, and the others one by one, which is slower than single prompts.
    """

    def __init__(self, engine: Engine, directory: Path, threads: int) -> None:
        self.n_positions, vocabulary = limits_of(directory)
        self._tokens = read_vocabulary(directory, vocabulary)
        self._holder = [open_generator(directory, threads)]
        # A thread of the library keeps the last callback, and aborts the process if it is freed while Python shuts
        # down. Deleting the generator before that ends the thread.
        weakref.finalize(self, self._holder.clear)

    def complete(self, prompts: Sequence[Sequence[int]], stop: Collection[int], decoding: Decoding) -> list[Completion]:
        """See `CompletionEngine.complete`.

        Raises:
            ValueError: also for more than one beam. The library's beam search has other rules than CodeXGLUE's, and
                the library cannot return logits computed with a cache.
        """
        if decoding.beams > 1:
            raise ValueError(
                f"decoding.beams is {decoding.beams}; ctranslate2 allows 1, as its beams are not CodeXGLUE's"
            )
        check_prompts(prompts, new_tokens(decoding), self.n_positions, len(self._tokens))
        ends = [] if decoding.fixed_new_tokens else list(stop)
        return [self._generate(prompt, ends, new_tokens(decoding)) for prompt in prompts]

    def logits(self, prompt: Sequence[int]) -> Logits:
        """See `CompletionEngine.logits`."""
        check_prompts([prompt], 0, self.n_positions, len(self._tokens))
        (generator,) = self._holder
        logits: Logits = np.array(generator.forward_batch([list(prompt)]))[0, -1]
        return logits

    def _generate(self, prompt: Sequence[int], ends: list[int], limit: int) -> Completion:
        (generator,) = self._holder
        clock = _FirstTokenClock()
        begin = perf_counter()
        (result,) = generator.generate_batch(
            [[self._tokens[token] for token in prompt]],
            max_length=limit,
            end_token=ends,
            include_prompt_in_result=False,
            callback=clock,
        )
        end = perf_counter()
        return Completion(result.sequences_ids[0], clock.first - begin, end - clock.first)


class _FirstTokenClock:
    """A callback that the library calls after every token: the first call has the time of the first token."""

    first = 0.0

    def __call__(self, step: ctranslate2.GenerationStepResult) -> bool:
        self.first = self.first or perf_counter()
        return False


def open_generator(directory: Path, threads: int) -> ctranslate2.Generator:
    """The library's generator, which computes in the type of the stored matrices.

    Raises:
        CheckpointError: the library cannot load the directory.
    """
    # Otherwise it warns that it computes in fp32 what int8 models store in fp16.
    ctranslate2.set_log_level(logging.ERROR)
    try:
        return ctranslate2.Generator(str(directory), compute_type="default", inter_threads=1, intra_threads=threads)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{directory}: ctranslate2 cannot load it: {error}") from error


def vocabulary_file(directory: Path) -> Path:
    """The file with the tokens in the order of their ids: JSON, or of older converters a line a token."""
    older = directory / "vocabulary.txt"
    return older if older.is_file() else directory / "vocabulary.json"


def read_vocabulary(directory: Path, size: int) -> list[str]:
    """The tokens in the order of their ids.

    Raises:
        CheckpointError: the file is missing, or has not `size` different tokens.
    """
    path = vocabulary_file(directory)
    try:
        text = path.read_text(encoding="utf-8")
        tokens = json.loads(text) if path.suffix == ".json" else text.removesuffix("\n").split("\n")
    except FileNotFoundError:
        message = f"{directory}: {path.name} is missing; this engine runs the output of export-ctranslate2"
        raise CheckpointError(message) from None
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from None
    if not isinstance(tokens, list) or len(set(tokens)) != size:
        raise CheckpointError(f"{path}: allowed: a list of vocab_size = {size} different tokens")
    return tokens
