"""Graphs that others made: what all engines feed them in a search, whatever their inputs are called."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from slimline.tasks.engines.base import Completion, Logits, check_prompts, new_tokens
from slimline.tasks.engines.search import Rows, search
from slimline.tasks.models.external import GraphInputs, Layout
from slimline.tasks.specs import Decoding

Feed = dict[str, NDArray[Any]]


class Runner(Protocol):
    """An engine's session with a graph, which keeps the cache between two runs."""

    def reset(self) -> None:
        """Forget the cache."""
        ...

    def run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """The logits of new tokens, [rows, new or fewer, vocabulary], valid until the next run."""
        ...

    def reorder(self, parents: Rows) -> None:
        """Continue row i of the cache from its row `parents[i]`."""
        ...


class ForeignGraph:
    """The `CachedModel` of a runner, for one prompt, which is read in one run, as its users do."""

    def __init__(self, inputs: GraphInputs, runner: Runner) -> None:
        self._inputs, self._runner = inputs, runner
        self._length = 0

    def prefill(self, prompts: Sequence[Sequence[int]], limit: int) -> Logits:
        """See `CachedModel.prefill`; it takes one prompt."""
        (prompt,) = prompts
        self._runner.reset()
        self._length = 0
        return self._append(np.array([prompt]))

    def step(self, tokens: Rows) -> Logits:
        """See `CachedModel.step`."""
        return self._append(tokens[:, None])

    def reorder(self, parents: Rows) -> None:
        """See `CachedModel.reorder`."""
        self._runner.reorder(parents)

    def _append(self, tokens: Rows) -> Logits:
        cached, self._length = self._length, self._length + tokens.shape[1]
        logits = self._runner.run(self._feed(tokens, cached))
        return np.asarray(logits[:, -1], dtype=np.float32)

    def _feed(self, tokens: Rows, cached: int) -> Feed:
        inputs, (rows, new) = self._inputs, tokens.shape
        feed: Feed = {inputs.tokens.name: np.ascontiguousarray(tokens, dtype=inputs.tokens.dtype)}
        if port := inputs.mask:
            feed[port.name] = np.ones((rows, cached + new), dtype=port.dtype)
        if port := inputs.positions:
            feed[port.name] = np.arange(cached, cached + new, dtype=port.dtype)[None].repeat(rows, axis=0)
        if port := inputs.kept:
            feed[port.name] = np.array(1, dtype=port.dtype)
        if port := inputs.has_cache:
            feed[port.name] = np.array([cached > 0])
        if port := inputs.parents:
            feed[port.name] = np.arange(rows, dtype=port.dtype)
        return feed


class ForeignEngine:
    """A `CompletionEngine` with a graph that others made; prompts are completed one after the other."""

    def __init__(self, layout: Layout, runner: Runner) -> None:
        assert layout.inputs  # the step that wrote it has named them
        self.n_positions = layout.n_positions
        self._vocabulary = layout.vocabulary
        self._has_beams = bool(layout.cache) or layout.inputs.parents is not None
        self._model = ForeignGraph(layout.inputs, runner)

    def complete(self, prompts: Sequence[Sequence[int]], stop: Collection[int], decoding: Decoding) -> list[Completion]:
        """See `CompletionEngine.complete`.

        Raises:
            ValueError: also for more than one beam, if the rows of the model's cache cannot be reordered.
        """
        if decoding.beams > 1 and not self._has_beams:
            raise ValueError(f"decoding.beams is {decoding.beams}; a model without beam_idx allows 1")
        check_prompts(prompts, new_tokens(decoding), self.n_positions, self._vocabulary)
        return [each for prompt in prompts for each in search(self._model, [prompt], stop, decoding)]

    def logits(self, prompt: Sequence[int]) -> Logits:
        """See `CompletionEngine.logits`."""
        check_prompts([prompt], 0, self.n_positions, self._vocabulary)
        logits: Logits = self._model.prefill([prompt], 0)[0].copy()
        return logits
