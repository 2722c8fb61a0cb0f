"""OpenVINO's CPU plugin over the model of `export_openvino`, whose key/value cache is its own state."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimline.tasks.engines.base import Completion, Logits, check_prompts, new_tokens
from slimline.tasks.engines.decoding import Rows
from slimline.tasks.engines.lookup import speculative_search
from slimline.tasks.engines.openvino_model import GRAPH, HIDDEN, compile_model, future_mask, openvino, read_model
from slimline.tasks.models.checkpoint import CheckpointError, read_gpt2_config
from slimline.tasks.specs import Decoding, Engine


class OpenvinoEngine:
    """A `CompletionEngine` on OpenVINO; batches are padded on the left, and the padding is masked."""

    def __init__(self, engine: Engine, directory: Path, threads: int) -> None:
        config = read_gpt2_config(directory)
        self.n_positions = config["n_positions"]
        self._vocabulary = config["vocab_size"]
        self._draft_tokens = engine.draft_tokens
        model = read_model(directory)
        if (found := model.output().partial_shape[-1].to_string()) != str(self._vocabulary):
            raise CheckpointError(
                f"{directory / GRAPH}: vocabulary of {found}; allowed: config.json's {self._vocabulary}"
            )
        self._alone = engine.dtype == "bfloat16"
        self._model = _StatefulModel(compile_model(model, engine.dtype, threads).create_infer_request())

    def complete(self, prompts: Sequence[Sequence[int]], stop: Collection[int], decoding: Decoding) -> list[Completion]:
        """See `CompletionEngine.complete`; beams run one prompt after the other."""
        if not prompts:
            return []
        check_prompts(prompts, new_tokens(decoding), self.n_positions, self._vocabulary)
        # OpenVINO 2026.4's bf16 attention goes wrong where several long rows share a batch.
        batches = [[prompt] for prompt in prompts] if self._alone else [prompts]
        return [
            completion
            for batch in batches
            for completion in speculative_search(self._model, batch, stop, decoding, self._draft_tokens)
        ]

    def logits(self, prompt: Sequence[int]) -> Logits:
        """See `CompletionEngine.logits`."""
        check_prompts([prompt], 0, self.n_positions, self._vocabulary)
        logits: Logits = self._model.prefill([prompt], 0)[0].copy()
        return logits


class _StatefulModel:
    """The `VerifyingModel` of one request, whose state is a batch's cache; it can be appended to, but not cut.

    So blanks that pad prompts on the left, and tokens that were taken back, stay in the cache and are masked. Logits
    are a view of the request's memory.
    """

    def __init__(self, request: openvino.InferRequest) -> None:
        self._request = request
        self._inputs: dict[str, NDArray[Any]] = {}
        self._hidden = np.zeros((1, 1, 1, 0), dtype=np.float32)
        """Mask of the cache: [rows, or 1 for all, 1, 1, capacity]."""
        self._filled = 0
        self._positions: Rows = np.zeros(0, dtype=np.int64)
        """Each row's next position."""
        self._parents = np.zeros(0, dtype=np.int32)

    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> Logits:
        lengths = np.array([len(prompt) for prompt in prompts])
        width = int(lengths.max())
        blanks = width - lengths
        tokens = np.zeros((len(prompts), width), dtype=np.int64)
        for prompt, row, blank in zip(prompts, tokens, blanks, strict=True):
            row[blank:] = prompt
        self._request.reset_state()
        self._hidden = _mask_of_blanks(blanks, width + room)
        self._filled, self._positions = 0, -blanks
        self._parents = np.arange(len(prompts), dtype=np.int32)
        return self._append(tokens, np.array([width - 1]))[:, 0]

    def step(self, tokens: Rows) -> Logits:
        return self._append(tokens[:, None], np.zeros(1, dtype=np.int64))[:, 0]

    def verify(self, tokens: Rows) -> Logits:
        """See `VerifyingModel.verify`."""
        logits: Logits = self._append(tokens[None], np.arange(len(tokens)))[0]
        return logits

    def rollback(self, count: int) -> None:
        """See `VerifyingModel.rollback`."""
        self._hidden[..., self._filled - count : self._filled] = HIDDEN
        self._positions = self._positions - count

    def reorder(self, parents: Rows) -> None:
        self._parents = self._parents[parents]
        self._positions = self._positions[parents]
        if len(self._hidden) > 1:
            self._hidden = self._hidden[parents]

    def _append(self, tokens: Rows, wanted: Rows) -> Logits:
        """Logits [rows, wanted, vocabulary] after those of the new tokens ([rows, new]) that are `wanted`."""
        rows, new = tokens.shape
        self._filled += new
        if self._filled > self._hidden.shape[-1]:
            more = np.zeros((*self._hidden.shape[:-1], new), dtype=np.float32)
            self._hidden = np.concatenate([self._hidden, more], axis=-1)
        mask = self._hidden[..., : self._filled]
        if new > 1:
            mask = np.repeat(mask, new, axis=2)
            mask[..., -new:] += future_mask(new)
        self._give("input_ids", tokens)
        self._give("position_ids", np.maximum(self._positions[:, None] + np.arange(new), 0))
        self._give("wanted", wanted)
        self._give("beam_idx", self._parents)
        self._set("mask", np.ascontiguousarray(mask))
        logits: Logits = self._request.infer(share_outputs=True)[0]
        self._positions = self._positions + new
        self._parents = np.arange(rows, dtype=np.int32)
        return logits

    def _give(self, name: str, value: NDArray[Any]) -> None:
        """The request reads an input where it found it last: that is set anew only when the shape is another."""
        held = self._inputs.get(name)
        if held is None or held.shape != value.shape:
            self._set(name, value.copy())
        else:
            held[:] = value

    def _set(self, name: str, value: NDArray[Any]) -> None:
        self._inputs[name] = value
        self._request.set_tensor(name, openvino.Tensor(value, shared_memory=True))


def _mask_of_blanks(blanks: Rows, capacity: int) -> NDArray[np.float32]:
    """[rows, 1, 1, capacity] that hides each row's first `blanks` tokens; one row for all if none has any."""
    if not blanks.any():
        return np.zeros((1, 1, 1, capacity), dtype=np.float32)
    return np.where(np.arange(capacity) < blanks[:, None], HIDDEN, np.float32(0))[:, None, None]
