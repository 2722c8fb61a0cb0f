"""What an engine is: it loads an artifact's files and completes prompts with them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from slimline.storage.extras import import_module
from slimline.tasks.specs import Decoding, Engine, EngineName

Logits = NDArray[np.float32]

_ENGINES: dict[EngineName, tuple[str, str]] = {
    "torch": ("slimline.tasks.engines.torch_engine", "TorchEngine"),
    "onnxruntime": ("slimline.tasks.engines.onnx_engine", "OnnxEngine"),
    "openvino": ("slimline.tasks.engines.openvino_engine", "OpenvinoEngine"),
    "ctranslate2": ("slimline.tasks.engines.ctranslate2_engine", "Ctranslate2Engine"),
}


class Completion(NamedTuple):
    """One prompt's completion.

    A batch is computed as one, so each of its completions carries an equal share of the batch's seconds: sums over
    completions are wall time, whatever the batch size.
    """

    tokens: list[int]
    """New token ids, without the stop token."""
    prefill_s: float
    """Seconds from the prompt to the choice of the first new token."""
    decode_s: float
    """Seconds for all further tokens, the stop token included."""


class CompletionEngine(Protocol):
    """A loaded model. Completions of a prompt do not depend on what else is in the batch."""

    n_positions: int

    def complete(self, prompts: Sequence[Sequence[int]], stop: Collection[int], decoding: Decoding) -> list[Completion]:
        """Completes every prompt, as one batch; nothing is truncated.

        Raises:
            ValueError: a prompt is empty, has an id outside the vocabulary, or leaves no room for the new tokens.
        """
        ...

    def logits(self, prompt: Sequence[int]) -> Logits:
        """[vocabulary], fp32: the scores of the token after `prompt`; for parity checks."""
        ...


def load_engine(engine: Engine, directory: Path, threads: int) -> CompletionEngine:
    """The engine on the artifact's files in `directory`, with `threads` intra-op threads.

    Imports only what that engine needs: a process that runs onnxruntime never holds torch, nor the other way round.

    Raises:
        ValueError: `threads` is not positive.
        MissingExtraError: the engine is not installed.
        CheckpointError: the files are not what the engine loads.
    """
    if threads < 1:
        raise ValueError(f"threads is {threads}; allowed: 1 or more")
    module, class_name = _ENGINES[engine.name]
    loader: Callable[[Engine, Path, int], CompletionEngine] = getattr(import_module(module), class_name)
    return loader(engine, directory, threads)


def new_tokens(decoding: Decoding) -> int:
    """The number of tokens that a completion may take at most."""
    return decoding.fixed_new_tokens or decoding.max_new_tokens


def check_prompts(prompts: Sequence[Sequence[int]], room: int, n_positions: int, vocabulary: int) -> None:
    """Refuses prompts that the model cannot complete with `room` new tokens.

    Raises:
        ValueError: naming the prompt, its length or id, and what is allowed.
    """
    for index, prompt in enumerate(prompts):
        if not 1 <= len(prompt) <= n_positions - room:
            raise ValueError(
                f"prompt {index} has {len(prompt)} tokens; allowed: 1 to {n_positions - room} "
                f"({n_positions} positions less {room} new tokens)"
            )
        if min(prompt) < 0 or max(prompt) >= vocabulary:
            worst = min(prompt) if min(prompt) < 0 else max(prompt)
            raise ValueError(f"prompt {index} has token {worst}; allowed: 0 to {vocabulary - 1}")
