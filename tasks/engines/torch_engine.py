"""transformers' `generate` in fp32: the published way, and the baseline everything is compared with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, GPT2LMHeadModel, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import DynamicCache

from tasks.engines.base import Completion, Logits, check_prompts, new_tokens
from tasks.engines.checkpoint import is_dynamic_int8
from tasks.engines.decoding import Rows, search, until_stop
from tasks.engines.torch_loading import load_fp32
from tasks.quantization.dynamic_int8 import load_quantized
from tasks.specs import Decoding, Engine

_PAD = 0  # masked before the prompt and cut off after the stop token, so any id does


class TorchEngine:
    """A `CompletionEngine` on torch: greedy by `generate`, beams by the loop all engines share.

    `generate`'s own beam search keeps and ends hypotheses by other rules than CodeXGLUE's.
    """

    def __init__(self, engine: Engine, directory: Path, threads: int) -> None:
        _use_threads(threads)
        self._int8 = is_dynamic_int8(directory)
        self._model = load_quantized(directory) if self._int8 else load_fp32(directory)
        # A checkpoint's generation_config.json may ask for sampling, lengths or penalties: no part of a measurement.
        self._model.generation_config = GenerationConfig()
        self.n_positions: int = self._model.config.n_positions
        self._vocabulary: int = self._model.config.vocab_size

    def complete(self, prompts: Sequence[Sequence[int]], stop: Collection[int], decoding: Decoding) -> list[Completion]:
        """See `CompletionEngine.complete`; beams run one prompt after the other."""
        if not prompts:
            return []
        check_prompts(prompts, new_tokens(decoding), self.n_positions, self._vocabulary)
        with torch.inference_mode():
            if decoding.beams > 1:
                return search(_CachedTorch(self._model), prompts, stop, decoding)
            # torch takes one activation range per tensor: in a batch, int8 would make each row depend on the others.
            batches = [[prompt] for prompt in prompts] if self._int8 else [prompts]
            return [completion for batch in batches for completion in self._generate(batch, stop, decoding)]

    def logits(self, prompt: Sequence[int]) -> Logits:
        """See `CompletionEngine.logits`."""
        check_prompts([prompt], 0, self.n_positions, self._vocabulary)
        with torch.inference_mode():
            logits: Logits = _CachedTorch(self._model).prefill([prompt], 0)[0]
        return logits

    def _generate(
        self, prompts: Sequence[Sequence[int]], stop: Collection[int], decoding: Decoding
    ) -> list[Completion]:
        ends = frozenset() if decoding.fixed_new_tokens else frozenset(stop)
        tokens, mask = _pad_left(prompts)
        config = GenerationConfig(
            max_new_tokens=new_tokens(decoding),
            do_sample=False,
            use_cache=True,
            eos_token_id=sorted(ends) or None,
            pad_token_id=_PAD,
        )
        clock = _FirstTokenClock()
        begin = perf_counter()
        output = self._model.generate(
            tokens, attention_mask=mask, generation_config=config, stopping_criteria=StoppingCriteriaList([clock])
        )
        end = perf_counter()
        first = clock.first if clock.first is not None else end
        seconds = (first - begin) / len(prompts), (end - first) / len(prompts)
        return [Completion(until_stop(row, ends), *seconds) for row in output[:, tokens.shape[1] :].tolist()]


class _FirstTokenClock(StoppingCriteria):  # type: ignore[misc]
    """Stops nothing: `generate` asks after every token, so the first question tells when the first token was there."""

    def __init__(self) -> None:
        self.first: float | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        if self.first is None:
            self.first = perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool)


class _CachedTorch:
    """The `CachedModel` of a transformers model, for prompts of one length."""

    def __init__(self, model: GPT2LMHeadModel) -> None:
        self._model = model
        self._cache: Any = None

    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> Logits:
        self._cache = DynamicCache(config=self._model.config)
        return self._run(torch.tensor(prompts))

    def step(self, tokens: Rows) -> Logits:
        return self._run(torch.from_numpy(tokens)[:, None])

    def reorder(self, parents: Rows) -> None:
        self._cache.reorder_cache(torch.from_numpy(parents))

    def _run(self, tokens: torch.Tensor) -> Logits:
        output = self._model(tokens, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        logits: Logits = output.logits[:, -1].numpy().astype(np.float32, copy=False)
        return logits


def _pad_left(prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both [prompts, longest]."""
    width = max(map(len, prompts))
    tokens = torch.full((len(prompts), width), _PAD)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return tokens, mask


def _use_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    # torch accepts this once per process, and refuses once any parallel work has begun.
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
