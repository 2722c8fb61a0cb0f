"""The onnxruntime engine, which runs the graph of `export_onnx` and updates the key/value cache in place."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from slimline.tasks.engines.base import Completion, Logits, check_prompts, new_tokens
from slimline.tasks.engines.lookup import speculative_search
from slimline.tasks.engines.search import Rows
from slimline.tasks.models.checkpoint import CheckpointError, Gpt2Config, read_gpt2_config
from slimline.tasks.specs import Decoding, Engine

_CHUNK = 208  # tokens of a prompt per pass: a few per cent faster than others for prompts of some hundred tokens


class OnnxEngine:
    """A `CompletionEngine` with onnxruntime's CPU provider.

    Prompts are completed one after the other. On a CPU this is faster than a batch, because nothing is padded and
    intermediate results fit into caches; and no completion can depend on the other prompts.
    """

    def __init__(self, engine: Engine, directory: Path, threads: int) -> None:
        config = read_gpt2_config(directory)
        self.n_positions = config["n_positions"]
        self._vocabulary = config["vocab_size"]
        self._draft_tokens = engine.draft_tokens
        self._model = _CachedGraph(open_session(directory / "model.onnx", _options(threads)), config)

    def complete(self, prompts: Sequence[Sequence[int]], stop: Collection[int], decoding: Decoding) -> list[Completion]:
        """See `CompletionEngine.complete`."""
        check_prompts(prompts, new_tokens(decoding), self.n_positions, self._vocabulary)
        return [
            completion
            for prompt in prompts
            for completion in speculative_search(self._model, [prompt], stop, decoding, self._draft_tokens)
        ]

    def logits(self, prompt: Sequence[int]) -> Logits:
        """See `CompletionEngine.logits`."""
        check_prompts([prompt], 0, self.n_positions, self._vocabulary)
        logits: Logits = self._model.prefill([prompt], 0)[0].copy()
        return logits


def open_session(path: Path, options: ort.SessionOptions) -> ort.InferenceSession:
    """A session with a graph on the CPU.

    Raises:
        CheckpointError: the graph is missing, or onnxruntime cannot load it.
    """
    if not path.is_file():
        raise CheckpointError(f"{path.parent}: {path.name} is missing; this engine runs the output of export-onnx")
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises many unrelated classes, some of them direct subclasses of Exception
        raise CheckpointError(f"{path}: onnxruntime cannot load it: {error}") from error


def usual_options(threads: int) -> ort.SessionOptions:
    """The library's own settings, with `threads` intra-op threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    return options


def _options(threads: int) -> ort.SessionOptions:
    options = usual_options(threads)
    # Most prompts have different lengths, so that memory plans by shape would only use memory.
    options.enable_mem_pattern = False
    # Otherwise the pool's threads use their cores between two runs, which numpy or another process could use.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


class _Feed:
    """Inputs and logits of one shape, in memory that numpy and onnxruntime share."""

    def __init__(self, rows: int, new: int, wanted: int, vocabulary: int) -> None:
        self.tokens, self.positions = np.zeros((2, rows, new), dtype=np.int64)
        self.wanted = np.zeros((rows, wanted), dtype=np.int64)
        self.last_positions = np.zeros(rows, dtype=np.int32)
        self.longest = np.zeros((), dtype=np.int32)
        self.logits: Logits = np.zeros((rows, wanted, vocabulary), dtype=np.float32)
        inputs: dict[str, NDArray[np.int64] | NDArray[np.int32]] = {
            "input_ids": self.tokens,
            "position_ids": self.positions,
            "wanted": self.wanted,
            "seqlens_k": self.last_positions,
            "total_sequence_length": self.longest,
        }
        self.inputs = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in inputs.items()}
        self.output = ort.OrtValue.ortvalue_from_numpy(self.logits)


class _Batch:
    """The key/value cache of a batch: keys and values of every layer, each [rows, heads, capacity, head width].

    numpy owns the memory, and onnxruntime reads and writes it in place. Pages that are not used yet need no memory.
    """

    def __init__(self, session: ort.InferenceSession, names: Sequence[str], shape: tuple[int, int, int, int]) -> None:
        self.rows, _, self.capacity, _ = shape
        self.lengths: Rows = np.zeros(self.rows, dtype=np.int64)
        self._session, self._binding = session, session.io_binding()
        self._vocabulary: int = session.get_outputs()[0].shape[-1]
        self._buffers = {name: np.zeros(shape, dtype=np.float32) for name in names}
        self._feeds: dict[int, _Feed] = {}
        self._bound: _Feed | None = None
        for name, buffer in self._buffers.items():
            shared = ort.OrtValue.ortvalue_from_numpy(buffer)
            self._binding.bind_ortvalue_input(f"past_{name}", shared)
            self._binding.bind_ortvalue_output(f"present_{name}", shared)

    def copy_rows(self, other: _Batch, parents: Rows) -> None:
        """Continue from the rows `parents` of another batch."""
        self.lengths = other.lengths[parents]
        filled = int(self.lengths.max())
        for name, buffer in self._buffers.items():
            buffer[:, :, :filled] = other._buffers[name][parents, :, :filled]

    def feed_for_last(self, new: int) -> _Feed:
        """A feed for `new` tokens per row that returns the logits after the last one."""
        if new == 1:
            return self.feed_for_all(1)
        return _Feed(self.rows, new, 1, self._vocabulary)

    def feed_for_all(self, new: int) -> _Feed:
        """A feed for `new` tokens per row that returns the logits after each; it is cached, as few shapes occur."""
        if new not in self._feeds:
            self._feeds[new] = _Feed(self.rows, new, new, self._vocabulary)
            self._feeds[new].wanted[:] = np.arange(new)
        return self._feeds[new]

    def append(self, feed: _Feed) -> Logits:
        """Append the feed's tokens to the rows; returns logits [rows, wanted, vocabulary], valid until its next run."""
        new = feed.tokens.shape[1]
        feed.positions[:] = self.lengths[:, None] + np.arange(new)
        self.lengths = self.lengths + new
        feed.last_positions[:] = self.lengths - 1
        feed.longest[...] = self.lengths.max()
        if self._bound is not feed:
            for name, value in feed.inputs.items():
                self._binding.bind_ortvalue_input(name, value)
            self._binding.bind_ortvalue_output("logits", feed.output)
            self._bound = feed
        self._session.run_with_iobinding(self._binding)
        return feed.logits


class _CachedGraph:
    """The `VerifyingModel` of one session.

    All single rows use the same batch, because allocating and binding one takes as long as a token.
    """

    def __init__(self, session: ort.InferenceSession, config: Gpt2Config) -> None:
        self._session = session
        self._heads = config["n_head"], config["n_embd"] // config["n_head"]
        self._names = [f"{kind}_{layer}" for layer in range(config["n_layer"]) for kind in ("key", "value")]
        self._batch = self._single = self._new_batch(1, config["n_positions"])

    def prefill(self, prompts: Sequence[Sequence[int]], limit: int) -> Logits:
        """See `CachedModel.prefill`; it takes one prompt, and has space for all positions of the model.

        The prompt is read in chunks of about equal size. This computes less, because scores between a chunk and later
        ones are not needed, and intermediate results are smaller.
        """
        (prompt,) = prompts
        self._batch = self._single
        self._batch.lengths = np.zeros(1, dtype=np.int64)
        for chunk in np.array_split(np.array(prompt), -(-len(prompt) // _CHUNK)):
            feed = self._batch.feed_for_last(len(chunk))
            feed.tokens[0] = chunk
            feed.wanted[0] = len(chunk) - 1
            logits: Logits = self._batch.append(feed)[:, 0]
        return logits

    def step(self, tokens: Rows) -> Logits:
        feed = self._batch.feed_for_last(1)
        feed.tokens[:, 0] = tokens
        logits: Logits = self._batch.append(feed)[:, 0]
        return logits

    def verify(self, tokens: Rows) -> Logits:
        """See `VerifyingModel.verify`."""
        feed = self._batch.feed_for_all(len(tokens))
        feed.tokens[0] = tokens
        logits: Logits = self._batch.append(feed)[0]
        return logits

    def rollback(self, count: int) -> None:
        """See `VerifyingModel.rollback`; what is stored beyond a row's length is never read."""
        self._batch.lengths = self._batch.lengths - count

    def reorder(self, parents: Rows) -> None:
        if np.array_equal(parents, np.arange(self._batch.rows)):
            return
        batch = self._new_batch(len(parents), self._batch.capacity)
        batch.copy_rows(self._batch, parents)
        self._batch = batch

    def _new_batch(self, rows: int, capacity: int) -> _Batch:
        heads, head_width = self._heads
        return _Batch(self._session, self._names, (rows, heads, capacity, head_width))
