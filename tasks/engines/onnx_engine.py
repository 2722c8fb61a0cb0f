"""onnxruntime over the graph of `export_onnx`, with the key/value cache written in place."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from tasks.engines.base import Completion, Logits, check_prompts, new_tokens
from tasks.engines.checkpoint import CheckpointError, Gpt2Config, read_gpt2_config
from tasks.engines.decoding import Rows, search
from tasks.specs import Decoding, Engine

Cache = list[NDArray[np.float32]]


class OnnxEngine:
    """A `CompletionEngine` on onnxruntime's CPU provider; batches are padded on the right and masked by length."""

    def __init__(self, engine: Engine, directory: Path, threads: int) -> None:
        config = read_gpt2_config(directory)
        self.n_positions = config["n_positions"]
        self._vocabulary = config["vocab_size"]
        self._model = _CachedGraph(_open_session(directory / "model.onnx", threads), config)

    def complete(self, prompts: Sequence[Sequence[int]], stop: Collection[int], decoding: Decoding) -> list[Completion]:
        """See `CompletionEngine.complete`; beams run one prompt after the other."""
        if not prompts:
            return []
        check_prompts(prompts, new_tokens(decoding), self.n_positions, self._vocabulary)
        return search(self._model, prompts, stop, decoding)

    def logits(self, prompt: Sequence[int]) -> Logits:
        """See `CompletionEngine.logits`."""
        check_prompts([prompt], 0, self.n_positions, self._vocabulary)
        logits: Logits = self._model.prefill([prompt], 0)[0]
        return logits


def _open_session(path: Path, threads: int) -> ort.InferenceSession:
    if not path.is_file():
        raise CheckpointError(f"{path.parent}: {path.name} is missing; this engine runs what export-onnx wrote")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # Every prompt has a length of its own: plans of memory by shape would pile up and never be used again.
    options.enable_mem_pattern = False
    # Between two runs the pool's threads would otherwise burn a core that numpy, or another process, could use.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen unrelated classes, some of them directly below Exception
        raise CheckpointError(f"{path}: onnxruntime cannot load it: {error}") from error


class _CachedGraph:
    """The `CachedModel` of one session.

    The graph's attention reads and writes one buffer per layer for keys and one for values, each [rows, heads,
    capacity, head width]: bound as input and as output, it is never copied. numpy owns the memory.
    """

    def __init__(self, session: ort.InferenceSession, config: Gpt2Config) -> None:
        self._session = session
        self._shape = config["n_head"], config["n_embd"] // config["n_head"]
        self._names = [f"{kind}_{layer}" for layer in range(config["n_layer"]) for kind in ("key", "value")]
        self._binding: ort.IOBinding
        self._cache: Cache = []
        self._lengths: Rows = np.zeros(0, dtype=np.int64)

    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> Logits:
        self._lengths = np.array([len(prompt) for prompt in prompts])
        width = int(self._lengths.max())
        heads, head_width = self._shape
        size = (len(prompts), heads, width + room, head_width)
        self._bind([np.zeros(size, dtype=np.float32) for _ in self._names])
        tokens = np.zeros((len(prompts), width), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = prompt
        positions = np.broadcast_to(np.arange(width), tokens.shape)
        return self._run(tokens, np.ascontiguousarray(positions), self._lengths - 1)

    def step(self, tokens: Rows) -> Logits:
        positions = self._lengths[:, None]
        self._lengths = self._lengths + 1
        return self._run(tokens[:, None], positions, np.zeros_like(tokens))

    def reorder(self, parents: Rows) -> None:
        if np.array_equal(parents, np.arange(len(self._lengths))):
            return
        self._lengths = self._lengths[parents]
        filled = int(self._lengths.max())
        self._bind([_take_rows(buffer, parents, filled) for buffer in self._cache])

    def _bind(self, cache: Cache) -> None:
        self._cache, self._binding = cache, self._session.io_binding()
        for name, buffer in zip(self._names, cache, strict=True):
            shared = ort.OrtValue.ortvalue_from_numpy(buffer)
            self._binding.bind_ortvalue_input(f"past_{name}", shared)
            self._binding.bind_ortvalue_output(f"present_{name}", shared)

    def _run(self, tokens: Rows, positions: Rows, last: Rows) -> Logits:
        """Logits [rows, vocabulary] after `tokens` ([rows, new]) at `positions`; `last` indexes each row's last one."""
        feeds = {
            "input_ids": np.ascontiguousarray(tokens),
            "position_ids": np.ascontiguousarray(positions),
            "last_index": np.ascontiguousarray(last[:, None]),
            "seqlens_k": (self._lengths - 1).astype(np.int32),
            "total_sequence_length": np.array(self._lengths.max(), dtype=np.int32),
        }
        self._binding.bind_output("logits", "cpu")
        for name, feed in feeds.items():
            self._binding.bind_cpu_input(name, feed)
        self._session.run_with_iobinding(self._binding)
        logits: Logits = self._binding.get_outputs()[-1].numpy()
        return logits


def _take_rows(buffer: NDArray[np.float32], parents: Rows, filled: int) -> NDArray[np.float32]:
    """Rows `parents` of the buffer, of which the first `filled` positions hold something."""
    taken = np.empty((len(parents), *buffer.shape[1:]), dtype=np.float32)
    taken[:, :, :filled] = buffer[parents, :, :filled]
    return taken
