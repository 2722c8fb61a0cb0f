"""The probe: a new process that measures one variant and does nothing else.

    python -m slimline.tasks.measurement.probe [PARENT_PID] < request.json > result.json

`run_probe` starts this command and waits for its end without using the CPU. Apart from the engine the process imports
only pydantic and NumPy, so that its memory is the engine's. Standard output has only the result; what libraries print
goes to standard error, together with the progress.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, Self, TextIO

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

from slimline.storage.child_process import die_with, module_command
from slimline.tasks.measurement import energy
from slimline.tasks.runtime.threads import child_environment, pin_process
from slimline.tasks.specs import Decoding, Engine

if TYPE_CHECKING:
    from slimline.tasks.engines.base import Completion, CompletionEngine

_PROGRESS = re.compile(r'\{"progress": \[(\d+), (\d+)\]\}')
_STDERR_LINES = 20
_STATUS = Path("/proc/self/status")
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
_MB = 1e6


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

    @model_validator(mode="after")
    def _prompts_are_not_empty(self) -> Self:
        for number, prompt in enumerate(self.prompts):
            if not prompt:
                raise ValueError(f"prompts.{number} is empty; allowed: at least one token")
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
        started: When the probe started (UTC).
        finished: When it had measured (UTC).
        load_s: Seconds to load the engine and the model.
        wall_s: Seconds for all samples.
        base_mb: Memory before the engine was loaded.
        memory_mb: Peak memory.
        memory_over_base_mb: Peak memory less `base_mb`.
        energy_j: Joules of the whole host during the timed samples; None where no counter is readable.
        energy_source: Where the energy was read; None if it was not.
        timings: One per sample and pass, pass by pass (speed only).
        passes: Passes over the prompts (speed only).
        completions: Token ids in the order of the prompts (quality only).
    """

    pid: int
    started: datetime
    finished: datetime
    load_s: float
    wall_s: float
    base_mb: float
    memory_mb: float
    memory_over_base_mb: float
    energy_j: float | None = None
    energy_source: str | None = None
    timings: list[Timing] = []
    passes: int = 1
    completions: list[list[int]] = []


class ProbeError(RuntimeError):
    """The probe gave no result; the message has the reason and the last lines of its standard error.

    Attributes:
        reason: How the process ended.
        status: Its exit status; negative for the signal that killed it.
        stderr: The last lines of its standard error.
    """

    def __init__(self, reason: str, status: int, stderr: Sequence[str]) -> None:
        super().__init__("\n".join([f"measuring process: {reason}", *stderr]))
        self.reason = reason
        self.status = status
        self.stderr = tuple(stderr)


def run_probe(
    request: ProbeRequest, timeout: float, on_progress: Callable[[int, int], None] | None = None
) -> ProbeResult:
    """Measure in a new process and wait for its end.

    The process is killed when this call ends and, on Linux, when this process ends.

    Args:
        request: What to measure.
        timeout: Seconds after which the process is killed.
        on_progress: Called in this thread with the number of finished samples and of all samples, while quality is
            measured. If it raises, the process is killed.

    Raises:
        ProbeError: the process failed or was killed.
    """
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout:
        stdin.write(request.model_dump_json().encode())
        stdin.seek(0)
        process = _start(request.threads, stdin, stdout)
        try:
            with _kill_after(timeout, process) as expired:
                last_lines = _read_progress(process, on_progress)
                status = process.wait()
        finally:
            process.kill()
            process.communicate()
        if status != 0:
            reason = f"killed after the timeout of {timeout:g} s" if expired.is_set() else _exit_reason(status)
            raise ProbeError(reason, status, last_lines)
        stdout.seek(0)
        return ProbeResult.model_validate_json(stdout.read())


def _start(threads: int, stdin: IO[bytes], stdout: IO[bytes]) -> subprocess.Popen[str]:
    # Input and output are files, so that there is only one pipe to wait for, and no thread is needed during measuring.
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        module_command("slimline.tasks.measurement.probe", str(os.getpid())),
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=child_environment(threads),
    )


@contextlib.contextmanager
def _kill_after(timeout: float, process: subprocess.Popen[str]) -> Iterator[threading.Event]:
    """Kill the process after `timeout` seconds; the event says whether that has happened."""
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        process.kill()

    timer = threading.Timer(timeout, expire)
    timer.daemon = True
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()


def _read_progress(process: subprocess.Popen[str], on_progress: Callable[[int, int], None] | None) -> list[str]:
    """Read standard error to its end and report the progress; returns the last lines that are not progress."""
    lines: deque[str] = deque(maxlen=_STDERR_LINES)
    for line in process.stderr or ():
        progress = _PROGRESS.fullmatch(line.rstrip())
        if not progress:
            lines.append(line.rstrip())
        elif on_progress:
            on_progress(int(progress[1]), int(progress[2]))
    return list(lines)


def _exit_reason(status: int) -> str:
    if status >= 0:
        return f"ended with exit status {status}"
    name = signal.Signals(-status).name
    return f"killed by {name}" + (" (as the kernel does when memory runs out)" if name == "SIGKILL" else "")


def measure(request: ProbeRequest, progress: Callable[[int, int], None]) -> ProbeResult:
    """Measure in this process, which should be a new one; raises what the engine raises."""
    started = datetime.now(UTC)
    base_mb = _base_mb()
    clock = time.perf_counter()
    # Imported here: an engine's libraries are part of its memory and its loading time.
    from slimline.tasks.engines.base import load_engine

    engine = load_engine(request.engine, request.directory, request.threads)
    load_s = time.perf_counter() - clock
    measured = _measure_speed(engine, request) if request.mode == "speed" else _complete_all(engine, request, progress)
    memory_mb = _peak_mb()
    return ProbeResult.model_validate(
        {
            "pid": os.getpid(),
            "started": started,
            "finished": datetime.now(UTC),
            "load_s": load_s,
            "base_mb": base_mb,
            "memory_mb": memory_mb,
            "memory_over_base_mb": memory_mb - base_mb,
            **measured,
        }
    )


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


def _print_progress(done: int, total: int) -> None:
    print(json.dumps({"progress": [done, total]}), file=sys.stderr, flush=True)


def main() -> None:
    """Read a request from standard input and write the result to standard output; a bad request is exit status 2."""
    if len(sys.argv) > 1:
        die_with(int(sys.argv[1]))
    with _reserve_stdout() as stdout:
        try:
            request = ProbeRequest.model_validate_json(sys.stdin.buffer.read())
            if request.cpus is not None:
                pin_process(request.cpus)
        except (ValidationError, ValueError) as error:
            print(f"request: {error}", file=sys.stderr)
            sys.exit(2)
        stdout.write(measure(request, _print_progress).model_dump_json())


if __name__ == "__main__":
    main()
