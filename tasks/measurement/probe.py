"""The probe: a new process that measures one variant and does nothing else.

    python -m slimline.tasks.measurement.probe [PARENT_PID] < request.json > result.json

The first line of standard input is the request; the first line of standard output that is not progress is the result.
With `new_tokens` in the request the process stays: each further line of input is a turn, a list of samples to be timed
at equal work, and each further line of output has their seconds. Its input's end is its own. Apart from the engine it
imports only pydantic and NumPy, so that its memory is the engine's. What libraries print goes to standard error.
`slimline.tasks.measurement.probe_process` starts it and reads what it says.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, TextIO

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from slimline.storage.child_process import die_with
from slimline.tasks.measurement import energy
from slimline.tasks.runtime.isolation import raise_priority
from slimline.tasks.runtime.threads import pin_process
from slimline.tasks.specs import Decoding, Engine

if TYPE_CHECKING:
    from slimline.tasks.engines.base import Completion, CompletionEngine

_STATUS = Path("/proc/self/status")
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
_MB = 1e6
_LOOK_S = 0.005
_QUIET = 0.1  # of one CPU
_LONGEST_S = 0.5


class ProbeRequest(BaseModel):
    """What to measure. Prompts are token ids, so that the probe needs no tokenizer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    directory: Path = Field(description="The artifact's files.")
    engine: Engine
    threads: PositiveInt = Field(description="Intra-op threads.")
    cpus: tuple[NonNegativeInt, ...] | None = Field(None, min_length=1, description="CPUs to pin to; null: any.")
    prompts: tuple[tuple[NonNegativeInt, ...], ...] = Field(min_length=1, description="Token ids, one tuple a sample.")
    stop: tuple[NonNegativeInt, ...] = Field((), description="Token ids that end a completion.")
    decoding: Decoding = Decoding()
    mode: Literal["speed", "quality"] = Field(description="speed: timed, batch 1; quality: untimed, in batches.")
    warmup: NonNegativeInt = Field(3, description="Untimed samples before the timed ones (speed only).")
    least_s: NonNegativeFloat = Field(0, description="Seconds after which no further pass over the prompts begins.")
    batch_size: PositiveInt = Field(1, description="Samples in a batch (quality only).")
    new_tokens: tuple[PositiveInt, ...] = Field(
        (), description="Tokens to write after each prompt where the work is equal; empty: no turns (speed only)."
    )

    @model_validator(mode="after")
    def _prompts_are_not_empty(self) -> Self:
        for number, prompt in enumerate(self.prompts):
            if not prompt:
                raise ValueError(f"prompts.{number} is empty; allowed: at least one token")
        if self.new_tokens and len(self.new_tokens) != len(self.prompts):
            raise ValueError(
                f"new_tokens has {len(self.new_tokens)} numbers; allowed: {len(self.prompts)}, one a prompt"
            )
        return self


class Timing(BaseModel):
    """Seconds and tokens of one timed sample.

    Attributes:
        latency_s: The whole completion.
        prefill_s: From the prompt to the first new token.
        decode_s: All further tokens.
        prompt_tokens: Tokens of the prompt.
        new_tokens: Tokens of the completion.
        decode_passes: Passes through the model after the prefill, which itself gives a token. This is exact for greedy
            decoding; with beams these are the passes that the best completion needed.
    """

    latency_s: float
    prefill_s: float
    decode_s: float
    prompt_tokens: int
    new_tokens: int
    decode_passes: int


class ProbeResult(BaseModel):
    """The result of a probe. Memory is resident memory in 10^6 bytes.

    Attributes:
        pid: Process id of the probe.
        nice: Its niceness: -20 where it may run before all others, 0 as usual.
        started: When the probe started (UTC).
        finished: When it had measured (UTC).
        load_s: Seconds to load the engine and the model.
        wall_s: Seconds for all samples.
        base_mb: Memory before the engine was loaded.
        libraries_mb: Memory with the engine's libraries, before the model was loaded.
        memory_mb: Peak memory.
        memory_over_base_mb: Peak memory less `base_mb`.
        memory_over_libraries_mb: Peak memory less `libraries_mb`: what the model takes.
        energy_j: Joules of the whole host during the timed samples; None where no counter is readable.
        energy_source: Where the energy was read; None if it was not.
        timings: One per sample and pass, pass by pass (speed only).
        passes: Passes over the prompts (speed only).
        completions: Token ids in the order of the prompts (quality only).
    """

    pid: int
    nice: int = 0
    started: datetime
    finished: datetime
    load_s: float
    wall_s: float
    base_mb: float
    libraries_mb: float
    memory_mb: float
    memory_over_base_mb: float
    memory_over_libraries_mb: float
    energy_j: float | None = None
    energy_source: str | None = None
    timings: list[Timing] = []
    passes: int = 1
    completions: list[list[int]] = []


class Probe:
    """A loaded model in this process, which should be a new one. Raises what the engine raises."""

    def __init__(self, request: ProbeRequest) -> None:
        self._request, self._started, self._base_mb = request, datetime.now(UTC), _base_mb()
        clock = time.perf_counter()
        # Imported here: an engine's libraries are part of its memory and its loading time.
        from slimline.tasks.engines.base import import_engine, load_engine

        import_engine(request.engine, request.directory)
        self._libraries_mb = _resident_mb()
        self._engine = load_engine(request.engine, request.directory, request.threads)
        self._load_s = time.perf_counter() - clock

    def measure(self, progress: Callable[[int, int], None]) -> ProbeResult:
        """Measure alone what the request asks for."""
        engine, request = self._engine, self._request
        is_speed = request.mode == "speed"
        measured = _measure_speed(engine, request) if is_speed else _complete_all(engine, request, progress)
        memory_mb = _peak_mb()
        return ProbeResult.model_validate(
            {
                "pid": os.getpid(),
                "nice": os.getpriority(os.PRIO_PROCESS, 0),
                "started": self._started,
                "finished": datetime.now(UTC),
                "load_s": self._load_s,
                "base_mb": self._base_mb,
                "libraries_mb": self._libraries_mb,
                "memory_mb": memory_mb,
                "memory_over_base_mb": memory_mb - self._base_mb,
                "memory_over_libraries_mb": memory_mb - self._libraries_mb,
                **measured,
            }
        )

    def take_turn(self, samples: Sequence[int]) -> list[float]:
        """Seconds of each of these samples when as many tokens are written as the request says."""
        seconds = [self._time_equal_work(sample) for sample in samples]
        _calm_down()
        return seconds

    def _time_equal_work(self, sample: int) -> float:
        request = self._request
        decoding = request.decoding.model_copy(update={"fixed_new_tokens": request.new_tokens[sample]})
        clock = time.perf_counter_ns()
        self._engine.complete([request.prompts[sample]], (), decoding)
        return (time.perf_counter_ns() - clock) / 1e9


def _calm_down() -> None:
    """Wait until this process is quiet: OpenMP's threads spin for 10 ms after their work, in the other's turn."""
    latest = time.monotonic() + _LONGEST_S
    while time.monotonic() < latest:
        before = time.process_time()
        time.sleep(_LOOK_S)
        if time.process_time() - before < _QUIET * _LOOK_S:
            break


def _measure_speed(engine: CompletionEngine, request: ProbeRequest) -> dict[str, object]:
    for prompt in _warmup_prompts(request):
        engine.complete([prompt], request.stop, request.decoding)
    before = energy.read_counters()
    clock = time.perf_counter_ns()
    timings: list[Timing] = []
    wall_s = 0.0
    while not timings or wall_s < request.least_s:
        timings += [_time_completion(engine, prompt, request) for prompt in request.prompts]
        wall_s = (time.perf_counter_ns() - clock) / 1e9
    joules = energy.joules_between(before, energy.read_counters())
    source = None if joules is None else energy.SOURCE
    passes = len(timings) // len(request.prompts)
    return {"timings": timings, "passes": passes, "wall_s": wall_s, "energy_j": joules, "energy_source": source}


def _warmup_prompts(request: ProbeRequest) -> Iterator[Sequence[int]]:
    """Some of the prompts, the longest first, so that buffers have their final size before the clock starts."""
    by_length = sorted(request.prompts, key=len, reverse=True)
    return (by_length[number * len(by_length) // request.warmup] for number in range(request.warmup))


def _time_completion(engine: CompletionEngine, prompt: Sequence[int], request: ProbeRequest) -> Timing:
    clock = time.perf_counter_ns()
    (completion,) = engine.complete([prompt], request.stop, request.decoding)
    latency_s = (time.perf_counter_ns() - clock) / 1e9
    new_tokens = len(completion.tokens)
    return Timing(
        latency_s=latency_s,
        prefill_s=completion.prefill_s,
        decode_s=completion.decode_s,
        prompt_tokens=len(prompt),
        new_tokens=new_tokens,
        decode_passes=_decode_passes(new_tokens, request.decoding),
    )


def _decode_passes(new_tokens: int, decoding: Decoding) -> int:
    # A completion that is shorter than the limit ended with a stop token, which also took a pass. The first token
    # comes from the prefill.
    return min(new_tokens, (decoding.fixed_new_tokens or decoding.max_new_tokens) - 1)


def _complete_all(
    engine: CompletionEngine, request: ProbeRequest, progress: Callable[[int, int], None]
) -> dict[str, object]:
    # Batches of similar length need little padding; the longest come first, so that too large a batch fails early.
    order = sorted(range(len(request.prompts)), key=lambda sample: len(request.prompts[sample]), reverse=True)
    completions: dict[int, Completion] = {}
    clock = time.perf_counter()
    for begin in range(0, len(order), request.batch_size):
        batch = order[begin : begin + request.batch_size]
        results = engine.complete([request.prompts[sample] for sample in batch], request.stop, request.decoding)
        completions.update(zip(batch, results, strict=True))
        progress(len(completions), len(order))
    tokens = [completions[sample].tokens for sample in range(len(order))]
    return {"completions": tokens, "wall_s": time.perf_counter() - clock}


def _base_mb() -> float:
    import numpy  # noqa: F401 - every engine needs it; imported after the process is pinned, because it starts threads

    return _resident_mb()


def _resident_mb() -> float:
    return _status_mb("VmRSS") or _peak_mb()


def _peak_mb() -> float:
    # ru_maxrss is only the fallback: it keeps the peak of the parent process, which may have loaded torch.
    return _status_mb("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_BYTES / _MB


def _status_mb(field: str) -> float | None:
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024 / _MB
    return None


@contextlib.contextmanager
def _reserve_stdout() -> Iterator[TextIO]:
    """Standard output for the result only: what else this process prints goes to standard error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stdout:
        os.dup2(2, 1)
        yield stdout


def serve(lines: Iterable[bytes], write: Callable[[str], None]) -> None:
    """Measure what the first line asks for, then take the turns that the others ask for.

    Args:
        lines: Those of standard input.
        write: Writes a line to standard output.
    """
    rest = iter(lines)
    try:
        request = ProbeRequest.model_validate_json(next(rest, b""))
        if request.cpus is not None:
            pin_process(request.cpus)
        if request.mode == "speed":
            raise_priority()
    except (ValidationError, ValueError) as error:
        print(f"request: {error}", file=sys.stderr)
        sys.exit(2)
    probe = Probe(request)
    result = probe.measure(lambda done, total: write(json.dumps({"progress": [done, total]})))
    write(result.model_dump_json())
    for line in rest if request.new_tokens else ():
        write(json.dumps(probe.take_turn(json.loads(line))))


def main() -> None:
    """Serve standard input and output; a bad request is exit status 2."""
    if len(sys.argv) > 1:
        die_with(int(sys.argv[1]))
    with _reserve_stdout() as stdout:
        serve(sys.stdin.buffer, lambda line: print(line, file=stdout, flush=True))


if __name__ == "__main__":
    main()
