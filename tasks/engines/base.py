"""The interface of engines, which load an artifact and complete prompts with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from slimline.storage.extras import import_module
from slimline.tasks.models.external import is_external
from slimline.tasks.specs import Decoding, Engine, EngineName

Logits = NDArray[np.float32]

_ENGINES: dict[EngineName, tuple[str, str]] = {
    "torch": ("slimline.tasks.engines.torch_engine", "TorchEngine"),
    "onnxruntime": ("slimline.tasks.engines.onnx_engine", "OnnxEngine"),
    "openvino": ("slimline.tasks.engines.openvino_engine", "OpenvinoEngine"),
    "ctranslate2": ("slimline.tasks.engines.ctranslate2_engine", "Ctranslate2Engine"),
}
_FOREIGN_ENGINES: dict[EngineName, tuple[str, str]] = {
    **_ENGINES,  # torch and ctranslate2 run both with the same code
    "onnxruntime": ("slimline.tasks.engines.foreign_onnx", "ForeignOnnxEngine"),
    "openvino": ("slimline.tasks.engines.foreign_openvino", "ForeignOpenvinoEngine"),
}


class Completion(NamedTuple):
    """The completion of one prompt.

    The seconds of a batch are divided equally among its completions, so that sums over completions are wall time.

    Attributes:
        tokens: New token ids, without the stop token.
        prefill_s: Seconds from the prompt to the choice of the first new token.
        decode_s: Seconds for all further tokens, including the stop token.
    """

    tokens: list[int]
    prefill_s: float
    decode_s: float


class CompletionEngine(Protocol):
    """A loaded model. The completion of a prompt does not depend on the other prompts of a batch."""

    n_positions: int

    def complete(self, prompts: Sequence[Sequence[int]], stop: Collection[int], decoding: Decoding) -> list[Completion]:
        """Complete all prompts as one batch; nothing is truncated.

        Args:
            prompts: Token ids.
            stop: Token ids that end a completion.
            decoding: Search method and number of tokens.

        Raises:
            ValueError: a prompt is empty, has an id outside the vocabulary, or is too long with the new tokens.
        """
        ...

    def logits(self, prompt: Sequence[int]) -> Logits:
        """Logits of the token after `prompt`, [vocabulary], fp32; for parity checks."""
        ...


def load_engine(engine: Engine, directory: Path, threads: int) -> CompletionEngine:
    """Load the artifact in `directory` into an engine with `threads` intra-op threads.

    Only the libraries of that engine are imported: a process that runs onnxruntime does not load torch, for example.

    Raises:
        ValueError: `threads` is not positive.
        MissingExtraError: the engine is not installed.
        CheckpointError: the engine cannot load the files.
    """
    if threads < 1:
        raise ValueError(f"threads is {threads}; allowed: 1 or more")
    return import_engine(engine, directory)(engine, directory, threads)


def import_engine(engine: Engine, directory: Path) -> Callable[[Engine, Path, int], CompletionEngine]:
    """Import an engine's libraries; returns what loads the artifact in `directory`.

    Raises:
        MissingExtraError: the engine is not installed.
    """
    module, class_name = (_FOREIGN_ENGINES if is_external(directory) else _ENGINES)[engine.name]
    loader: Callable[[Engine, Path, int], CompletionEngine] = getattr(import_module(module), class_name)
    return loader


def new_tokens(decoding: Decoding) -> int:
    """The largest number of tokens that a completion may have."""
    return decoding.fixed_new_tokens or decoding.max_new_tokens


def check_prompts(prompts: Sequence[Sequence[int]], limit: int, n_positions: int, vocabulary: int) -> None:
    """Refuse prompts that the model cannot complete with up to `limit` new tokens.

    Raises:
        ValueError: a prompt is too long or has a token id outside the vocabulary.
    """
    for index, prompt in enumerate(prompts):
        if not 1 <= len(prompt) <= n_positions - limit:
            raise ValueError(
                f"prompt {index} has {len(prompt)} tokens; allowed: 1 to {n_positions - limit} "
                f"({n_positions} positions less {limit} new tokens)"
            )
        if min(prompt) < 0 or max(prompt) >= vocabulary:
            worst = min(prompt) if min(prompt) < 0 else max(prompt)
            raise ValueError(f"prompt {index} has token {worst}; allowed: 0 to {vocabulary - 1}")
