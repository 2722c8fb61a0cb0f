"""The OpenVINO engine, which runs the model of `export_openvino`; the key/value cache is the model's state."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimline.tasks.engines.base import Completion, Logits, check_prompts, new_tokens
from slimline.tasks.engines.lookup import speculative_search
from slimline.tasks.engines.openvino_model import GRAPH, MASK_VALUE, compile_model, future_mask, openvino, read_model
from slimline.tasks.engines.search import Rows
from slimline.tasks.models.checkpoint import CheckpointError, read_gpt2_config
from slimline.tasks.specs import Decoding, Engine


class OpenvinoEngine:
    """A `CompletionEngine` with OpenVINO's CPU plugin; prompts are padded on the left, and the padding is masked."""

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
        self._one_by_one = engine.dtype == "bfloat16"
        self._model = _StatefulModel(compile_model(model, engine.dtype, threads).create_infer_request())

    def complete(self, prompts: Sequence[Sequence[int]], stop: Collection[int], decoding: Decoding) -> list[Completion]:
        """See `CompletionEngine.complete`; beams run one prompt after the other."""
        if not prompts:
            return []
        check_prompts(prompts, new_tokens(decoding), self.n_positions, self._vocabulary)
        # The bf16 attention of OpenVINO 2026.4 is wrong for batches of several long rows.
        batches = [[prompt] for prompt in prompts] if self._one_by_one else [prompts]
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
    """The `VerifyingModel` of one request, whose state is the key/value cache of a batch.

    The state can grow, but not shrink: padding, and tokens that were removed again, stay in it and are masked. Logits
    are a view of the request's memory.
    """

    def __init__(self, request: openvino.InferRequest) -> None:
        self._request = request
        self._inputs: dict[str, NDArray[Any]] = {}
        self._mask = np.zeros((1, 1, 1, 0), dtype=np.float32)
        """Mask of the cache: [rows, or 1 for all, 1, 1, capacity]."""
        self._filled = 0
        self._positions: Rows = np.zeros(0, dtype=np.int64)
        """Each row's next position."""
        self._parents = np.zeros(0, dtype=np.int32)

    def prefill(self, prompts: Sequence[Sequence[int]], limit: int) -> Logits:
        lengths = np.array([len(prompt) for prompt in prompts])
        width = int(lengths.max())
        blanks = width - lengths
        tokens = np.zeros((len(prompts), width), dtype=np.int64)
        for prompt, row, blank in zip(prompts, tokens, blanks, strict=True):
            row[blank:] = prompt
        self._request.reset_state()
        self._mask = _mask_of_blanks(blanks, width + limit)
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
        self._mask[..., self._filled - count : self._filled] = MASK_VALUE
        self._positions = self._positions - count

    def reorder(self, parents: Rows) -> None:
        self._parents = self._parents[parents]
        self._positions = self._positions[parents]
        if len(self._mask) > 1:
            self._mask = self._mask[parents]

    def _append(self, tokens: Rows, wanted: Rows) -> Logits:
        """Append new tokens ([rows, new]); returns the logits after the `wanted` ones, [rows, wanted, vocabulary]."""
        rows, new = tokens.shape
        self._filled += new
        if self._filled > self._mask.shape[-1]:
            more = np.zeros((*self._mask.shape[:-1], new), dtype=np.float32)
            self._mask = np.concatenate([self._mask, more], axis=-1)
        mask = self._mask[..., : self._filled]
        if new > 1:
            mask = np.repeat(mask, new, axis=2)
            mask[..., -new:] += future_mask(new)
        self._set_in_place("input_ids", tokens)
        self._set_in_place("position_ids", np.maximum(self._positions[:, None] + np.arange(new), 0))
        self._set_in_place("wanted", wanted)
        self._set_in_place("beam_idx", self._parents)
        self._set("mask", np.ascontiguousarray(mask))
        logits: Logits = self._request.infer(share_outputs=True)[0]
        self._positions = self._positions + new
        self._parents = np.arange(rows, dtype=np.int32)
        return logits

    def _set_in_place(self, name: str, value: NDArray[Any]) -> None:
        """Write an input to the memory that the request reads; set a new tensor only if the shape has changed."""
        current = self._inputs.get(name)
        if current is None or current.shape != value.shape:
            self._set(name, value.copy())
        else:
            current[:] = value

    def _set(self, name: str, value: NDArray[Any]) -> None:
        self._inputs[name] = value
        self._request.set_tensor(name, openvino.Tensor(value, shared_memory=True))


def _mask_of_blanks(blanks: Rows, capacity: int) -> NDArray[np.float32]:
    """Mask [rows, 1, 1, capacity] of each row's first `blanks` tokens; a single row if there are none."""
    if not blanks.any():
        return np.zeros((1, 1, 1, capacity), dtype=np.float32)
    return np.where(np.arange(capacity) < blanks[:, None], MASK_VALUE, np.float32(0))[:, None, None]
