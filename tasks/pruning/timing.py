"""Timing of models with random weights on a real engine, in rounds of random order.

    python -m slimline.tasks.pruning.timing PARENT_PID REQUEST

`time_shapes` starts this command. It prints the number of timings, and then each timing: the number of the shape, the
seconds of its prefill, and the seconds of one decoding step.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from slimline.storage.child_process import die_with, module_command
from slimline.tasks.pruning.shapes import Shape
from slimline.tasks.runtime.progress import progress_bar
from slimline.tasks.runtime.threads import can_pin, child_environment, pin_process
from slimline.tasks.specs import Decoding, Engine

if TYPE_CHECKING:
    from slimline.tasks.engines.base import CompletionEngine

TimedOn = Literal["torch", "onnxruntime", "onnxruntime-int8"]

NEW_TOKENS = 9
_DECODING = Decoding(fixed_new_tokens=NEW_TOKENS)
_SECONDS_PER_TIMING = 0.1
_FEWEST_ROUNDS, _MOST_ROUNDS = 5, 25


class TimingRequest(BaseModel):
    """What to time: completions of one prompt with `prompt_tokens` tokens by `NEW_TOKENS` more."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    timed_on: TimedOn
    threads: PositiveInt = Field(description="Intra-op threads.")
    cpus: tuple[NonNegativeInt, ...] = Field(
        min_length=1, description="CPUs to run on, where the system can pin a process."
    )
    prompt_tokens: PositiveInt
    shapes: tuple[Shape, ...] = Field(min_length=1)
    seconds: PositiveFloat = Field(30.0, description="Time for all rounds; there are at least 5 and at most 25.")


def time_shapes(request: TimingRequest) -> NDArray[np.float64]:
    """Time models of the given shapes in a new process and wait for its end.

    Returns:
        [shapes, rounds, 2], seconds: of the prefill, and of one decoding step after it.

    Raises:
        RuntimeError: the process failed; the message has its exit status (negative: the signal that killed it) and the
            last line it printed.
    """
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile("w+") as errors:
        request_path = Path(directory, "request.json")
        request_path.write_text(request.model_dump_json())
        command = module_command("slimline.tasks.pruning.timing", str(os.getpid()), str(request_path))
        environment = child_environment(request.threads)
        with subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process:
            try:
                seconds = _read_timings(process, request)
            finally:
                process.kill()
        if process.returncode:
            errors.seek(0)
            last = " ".join(errors.read().splitlines()[-1:])
            raise RuntimeError(f"timing on {request.timed_on} ended with status {process.returncode}: {last}")
    return np.array(seconds)


def _read_timings(process: subprocess.Popen[str], request: TimingRequest) -> list[list[list[float]]]:
    """All timings of the process, by shape and round."""
    seconds: list[list[list[float]]] = [[] for _ in request.shapes]
    lines = iter(process.stdout or ())
    with progress_bar() as bar:
        task = bar.add_task(f"timing on {request.timed_on}", total=None)
        bar.update(task, total=int(next(lines, 0)))
        for line in lines:
            shape, *timing = json.loads(line)
            seconds[shape].append(timing)
            bar.advance(task)
    process.wait()
    return seconds


# ------------------------------------------------------------------------------------------------- the timing process


def write_random_gpt2(shape: Shape, directory: Path) -> None:
    """Write a checkpoint of that shape with random weights, which are as fast as others."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    tensors = {
        f"transformer.{name}": 0.02 * rng.standard_normal(size, dtype=np.float32)
        for name, size in _tensor_sizes(shape).items()
    }
    config = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_layer": shape.layers,
        "n_head": shape.heads,
        "n_embd": shape.width,
        "n_inner": shape.inner,
        "vocab_size": shape.vocabulary,
        "n_positions": shape.positions,
    }
    directory.mkdir(parents=True)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text("{}")


def _tensor_sizes(shape: Shape) -> dict[str, tuple[int, ...]]:
    width, inner = shape.width, shape.inner
    sizes: dict[str, tuple[int, ...]] = {
        "wte.weight": (shape.vocabulary, width),
        "wpe.weight": (shape.positions, width),
    }
    for layer in range(shape.layers):
        for name, inputs, outputs in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, inner),
            ("mlp.c_proj", inner, width),
        ):
            sizes |= {f"h.{layer}.{name}.weight": (inputs, outputs), f"h.{layer}.{name}.bias": (outputs,)}
    norms = ["ln_f", *(f"h.{layer}.{norm}" for layer in range(shape.layers) for norm in ("ln_1", "ln_2"))]
    return sizes | {f"{norm}.{part}": (width,) for norm in norms for part in ("weight", "bias")}


def load_shape(shape: Shape, timed_on: TimedOn, threads: int, directory: Path) -> CompletionEngine:
    """An engine with a random model of that shape, converted as in a study; the files are written below `directory`."""
    from slimline.tasks.engines.base import load_engine

    model, graph, int8 = (directory / kind for kind in ("model", "graph", "int8"))
    write_random_gpt2(shape, model)
    if timed_on == "torch":
        return load_engine(Engine(name="torch"), model, threads)
    from slimline.tasks.export.onnx_export import export_onnx

    export_onnx(model, graph)
    if timed_on == "onnxruntime":
        return load_engine(Engine(name="onnxruntime"), graph, threads)
    from slimline.tasks.quantization.onnx_int8 import quantize_onnx

    quantize_onnx(graph, int8, per_channel=True)
    return load_engine(Engine(name="onnxruntime"), int8, threads)


def _timings(engines: Sequence[CompletionEngine], prompt: list[int], seconds: float) -> Iterator[object]:
    """Yield the number of timings, and then each timing: (number of the engine, prefill_s, decode_s)."""
    repeats = [_repeats(engine, prompt) for engine in engines]
    begin = perf_counter()
    for engine, times in zip(engines, repeats, strict=True):
        _timing(engine, prompt, times)
    rounds = int(np.clip(seconds / (perf_counter() - begin), _FEWEST_ROUNDS, _MOST_ROUNDS))
    yield rounds * len(engines)
    order = list(range(len(engines)))
    shuffle = random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for number in order:
            yield number, *_timing(engines[number], prompt, repeats[number])


def _repeats(engine: CompletionEngine, prompt: list[int]) -> int:
    """Number of completions in one timing, such that timings of all models take about the same time.

    Other work on the host then slows down every model by the same factor. A completion shorter than the scheduler's
    time slice would often not be interrupted at all.
    """
    engine.complete([prompt], (), _DECODING)
    begin = perf_counter()
    engine.complete([prompt], (), _DECODING)
    return math.ceil(_SECONDS_PER_TIMING / (perf_counter() - begin))


def _timing(engine: CompletionEngine, prompt: list[int], repeats: int) -> tuple[float, float]:
    """Mean seconds of the prefill and of one decoding step."""
    completions = [engine.complete([prompt], (), _DECODING)[0] for _ in range(repeats)]
    prefill_s = sum(completion.prefill_s for completion in completions)
    decode_s = sum(completion.decode_s for completion in completions)
    return prefill_s / repeats, decode_s / repeats / (NEW_TOKENS - 1)


def main() -> None:
    """Time the shapes of a request. Arguments: the parent's pid, the path of the request."""
    die_with(int(sys.argv[1]))
    path = Path(sys.argv[2])
    request = TimingRequest.model_validate_json(path.read_bytes())
    if can_pin():
        pin_process(request.cpus)
    engines = []
    for shape in request.shapes:
        with tempfile.TemporaryDirectory(dir=path.parent) as directory:
            engines.append(load_shape(shape, request.timed_on, request.threads, Path(directory)))
    vocabulary = min(shape.vocabulary for shape in request.shapes)
    prompt = np.random.default_rng(0).integers(0, vocabulary, request.prompt_tokens).tolist()
    for line in _timings(engines, prompt, request.seconds):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
