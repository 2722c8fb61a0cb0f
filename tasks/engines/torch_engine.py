"""The torch engine, which uses transformers' `generate`: in fp32 it is the published method and the baseline."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    GPT2LMHeadModel,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicCache

from slimline.tasks.engines.base import Completion, Logits, check_prompts, new_tokens
from slimline.tasks.engines.search import Rows, cut_at_stop, search
from slimline.tasks.models.checkpoint import CheckpointError, is_dynamic_int8
from slimline.tasks.models.external import is_external, limits_of
from slimline.tasks.models.external_loading import load_external
from slimline.tasks.models.int8_loading import load_quantized
from slimline.tasks.models.loading import load_gpt2
from slimline.tasks.models.packed import is_packed, load_packed
from slimline.tasks.specs import Decoding, Engine

_PAD = 0  # any id: padding is masked before the prompt and removed after the stop token


class TorchEngine:
    """A `CompletionEngine` with torch: greedy search by `generate`, beam search by the code that all engines share.

    The beam search of `generate` has other rules than CodeXGLUE's. Draft tokens come from `generate`'s prompt lookup,
    which works for one prompt at a time, and change only the speed.
    """

    def __init__(self, engine: Engine, directory: Path, threads: int) -> None:
        _use_threads(threads)
        # With coarse rounding the chosen token can depend on how many tokens are computed together: torch's int8 has
        # one range of activations per tensor, and bfloat16 has about three digits.
        self._one_by_one = is_dynamic_int8(directory) or engine.dtype == "bfloat16"
        if engine.draft_tokens and self._one_by_one:
            raise ValueError(
                f"engine.draft_tokens is {engine.draft_tokens}; allowed in bfloat16, and with a dynamic-int8 model: 0, "
                "since drafts would change the result"
            )
        self._model = _load(engine, directory)
        self._draft_tokens = engine.draft_tokens or None
        # A checkpoint's generation_config.json may have sampling, lengths or penalties, which must not be used here.
        self._model.generation_config = GenerationConfig()
        self.n_positions, self._vocabulary = limits_of(directory)

    def complete(self, prompts: Sequence[Sequence[int]], stop: Collection[int], decoding: Decoding) -> list[Completion]:
        """See `CompletionEngine.complete`; beams run one prompt after the other."""
        if not prompts:
            return []
        check_prompts(prompts, new_tokens(decoding), self.n_positions, self._vocabulary)
        with torch.inference_mode():
            if decoding.beams > 1:
                return search(_CachedTorch(self._model), prompts, stop, decoding)
            batches = [[prompt] for prompt in prompts] if self._one_by_one else [prompts]
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
            prompt_lookup_num_tokens=self._draft_tokens if len(prompts) == 1 else None,
        )
        clock = _FirstTokenClock()
        begin = perf_counter()
        output = self._model.generate(
            tokens, attention_mask=mask, generation_config=config, stopping_criteria=StoppingCriteriaList([clock])
        )
        end = perf_counter()
        first = clock.first if clock.first is not None else end
        seconds = (first - begin) / len(prompts), (end - first) / len(prompts)
        return [Completion(cut_at_stop(row, ends), *seconds) for row in output[:, tokens.shape[1] :].tolist()]


def _load(engine: Engine, directory: Path) -> PreTrainedModel:
    dtype = torch.bfloat16 if engine.dtype == "bfloat16" else torch.float32
    if is_external(directory):
        return load_external(directory, dtype)
    if is_dynamic_int8(directory):
        if engine.dtype != "float32":
            raise CheckpointError(f"{directory}: quantized by dynamic-int8; engine.dtype is bfloat16, allowed: float32")
        return load_quantized(directory)
    model = load_packed(directory, dtype) if is_packed(directory) else load_gpt2(directory, dtype)
    if engine.draft_tokens:
        _clamp_positions(model)
    return model


def _clamp_positions(model: GPT2LMHeadModel) -> None:
    """Allow draft tokens after the last position: `generate` also computes those that it then drops as too long."""
    last = model.config.n_positions - 1
    model.transformer.wpe.register_forward_pre_hook(lambda module, inputs: (inputs[0].clamp(max=last),))


class _FirstTokenClock(StoppingCriteria):  # type: ignore[misc]  # transformers is not followed by mypy
    """A criterion that never stops; `generate` calls it after every token, and the first call has the time."""

    def __init__(self) -> None:
        self.first: float | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        if self.first is None:
            self.first = perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool)


class _CachedTorch:
    """The `CachedModel` of a transformers model, for prompts of one length."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._cache: Any = None

    def prefill(self, prompts: Sequence[Sequence[int]], limit: int) -> Logits:
        self._cache = DynamicCache(config=self._model.config)
        return self._run(torch.tensor(prompts))

    def step(self, tokens: Rows) -> Logits:
        return self._run(torch.from_numpy(tokens)[:, None])

    def reorder(self, parents: Rows) -> None:
        self._cache.reorder_cache(torch.from_numpy(parents))

    def _run(self, tokens: torch.Tensor) -> Logits:
        output = self._model(tokens, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        logits: Logits = output.logits[:, -1].float().numpy()
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
    # torch accepts this once per process, before any parallel work.
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
