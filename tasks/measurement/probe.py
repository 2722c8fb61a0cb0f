"""The measuring process: one variant, one fresh process, which does nothing else before or after.

    python -m slimline.tasks.measurement.probe [parent's pid] < request.json > result.json

`run_probe` is the parent's side: it starts the process and sleeps in the kernel until it ends, using no CPU.
Apart from the engine the process imports pydantic and NumPy only, so its memory is the engine's. Standard output
carries the result and nothing else; whatever libraries print goes to standard error, beside the progress.
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
from slimline.tasks.specs import Decoding, Engine

if TYPE_CHECKING:
    from slimline.tasks.engines.base import Completion, CompletionEngine

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "PYTHONFAULTHANDLER": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "ORT_DISABLE_TELEMETRY": "1",  # a thread and a database shared by all processes of the user, else
}
_PROGRESS = re.compile(r'\{"progress": \[(\d+), (\d+)\]\}')
_STDERR_LINES = 20
_STATUS = Path("/proc/self/status")
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
_MB = 1e6


class ProbeRequest(BaseModel):
    """What to measure: token ids in, so that the measuring process needs no tokenizer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    directory: Path = Field(description="The artifact's files.")
    engine: Engine
    threads: PositiveInt = Field(description="Intra-op threads.")
    cpus: tuple[NonNegativeInt, ...] | None = Field(None, min_length=1, description="CPUs to pin to; null: any.")
    prompts: tuple[tuple[NonNegativeInt, ...], ...] = Field(min_length=1, description="Token ids, one tuple a sample.")
    stop: tuple[NonNegativeInt, ...] = Field((), description="Token ids that end a completion.")
    decoding: Decoding = Decoding()
    mode: Literal["speed", "quality"] = Field(description="speed: timed, batch 1; quality: untimed, in batches.")
    warmup: NonNegativeInt = Field(3, description="Untimed samples first (speed only).")
    least_s: NonNegativeFloat = Field(0, description="Seconds after which no further pass over the prompts begins.")
    batch_size: PositiveInt = Field(1, description="Samples at once (quality only).")

    @model_validator(mode="after")
    def _prompts_are_not_empty(self) -> Self:
        for number, prompt in enumerate(self.prompts):
            if not prompt:
                raise ValueError(f"prompts.{number} is empty: a prompt has at least one token")
        return self


class Timing(BaseModel):
    """One timed sample, seconds. `decode_passes`: model passes after the prefill, which itself yields a token.

    Exact for greedy decoding; with beams it counts the passes the chosen completion needed.
    """

    latency_s: float
    prefill_s: float
    decode_s: float
    prompt_tokens: int
    new_tokens: int
    decode_passes: int


class ProbeResult(BaseModel):
    """What was measured. Memory is resident, in MB of 10^6 bytes; `base_mb` is the process before it loads the engine.

    Speed fills `timings` (of one pass over the prompts after another), `wall_s` (their sum of wall time) and, where
    counters are readable, `energy_j` of the whole host during them; quality fills `completions`, token ids in the order
    of the prompts.
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


class ProbeFailed(RuntimeError):  # noqa: N818 - says what happened, as ArtifactMissing does
    """The measuring process gave no result; the message has the reason and the last lines of its standard error.

    `status` is its exit status, negative for the signal that killed it.
    """

    def __init__(self, reason: str, status: int, stderr: Sequence[str]) -> None:
        super().__init__("\n".join([f"measuring process: {reason}", *stderr]))
        self.reason = reason
        self.status = status
        self.stderr = tuple(stderr)


def run_probe(
    request: ProbeRequest, timeout: float, on_progress: Callable[[int, int], None] | None = None
) -> ProbeResult:
    """Measure in a fresh process and block until it ends; it never outlives this call, nor (Linux) this process.

    `timeout` in seconds. `on_progress(done, total)`, in samples, is called in this thread while quality is measured;
    if it raises, the measurement is abandoned. Raises ProbeFailed.
    """
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout:
        stdin.write(request.model_dump_json().encode())
        stdin.seek(0)
        process = _start(request.threads, stdin, stdout)
        try:
            with _killed_after(timeout, process) as expired:
                last_lines = _follow(process, on_progress)
                status = process.wait()
        finally:
            process.kill()
            process.communicate()
        if status != 0:
            reason = f"killed after the timeout of {timeout:g} s" if expired.is_set() else _ending(status)
            raise ProbeFailed(reason, status, last_lines)
        stdout.seek(0)
        return ProbeResult.model_validate_json(stdout.read())


def _start(threads: int, stdin: IO[bytes], stdout: IO[bytes]) -> subprocess.Popen[str]:
    # Files for input and output leave one pipe to wait on, so no helper thread runs beside the measurement.
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        module_command("slimline.tasks.measurement.probe", str(os.getpid())),
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, **_ENVIRONMENT, **dict.fromkeys(_THREAD_VARIABLES, str(threads))},
    )


@contextlib.contextmanager
def _killed_after(timeout: float, process: subprocess.Popen[str]) -> Iterator[threading.Event]:
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


def _follow(process: subprocess.Popen[str], on_progress: Callable[[int, int], None] | None) -> list[str]:
    """Read standard error to its end, passing progress on; returns the last other lines."""
    lines: deque[str] = deque(maxlen=_STDERR_LINES)
    for line in process.stderr or ():
        progress = _PROGRESS.fullmatch(line.rstrip())
        if not progress:
            lines.append(line.rstrip())
        elif on_progress:
            on_progress(int(progress[1]), int(progress[2]))
    return list(lines)


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with exit status {status}"
    name = signal.Signals(-status).name
    return f"killed by {name}" + (" (as the kernel does when memory runs out)" if name == "SIGKILL" else "")


def measure(request: ProbeRequest, progress: Callable[[int, int], None]) -> ProbeResult:
    """Measure in this process, which should be fresh. Raises what the engine raises."""
    started = datetime.now(UTC)
    base_mb = _base_mb()
    clock = time.perf_counter()
    # Imported here: an engine's libraries are part of its memory and its loading time.
    from slimline.tasks.engines.base import load_engine

    engine = load_engine(request.engine, request.directory, request.threads)
    load_s = time.perf_counter() - clock
    measured = _speed(engine, request) if request.mode == "speed" else _quality(engine, request, progress)
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


def _speed(engine: CompletionEngine, request: ProbeRequest) -> dict[str, object]:
    for prompt in _warmup_prompts(request):
        engine.complete([prompt], request.stop, request.decoding)
    before = energy.read_counters()
    clock = time.perf_counter_ns()
    timings: list[Timing] = []
    wall_s = 0.0
    while not timings or wall_s < request.least_s:
        timings += [_timed(engine, prompt, request) for prompt in request.prompts]
        wall_s = (time.perf_counter_ns() - clock) / 1e9
    joules = energy.joules_between(before, energy.read_counters())
    source = None if joules is None else energy.SOURCE
    passes = len(timings) // len(request.prompts)
    return {"timings": timings, "passes": passes, "wall_s": wall_s, "energy_j": joules, "energy_source": source}


def _warmup_prompts(request: ProbeRequest) -> Iterator[Sequence[int]]:
    """Prompts of the measured set itself, the longest first: buffers reach their final size before the clock starts."""
    by_length = sorted(request.prompts, key=len, reverse=True)
    return (by_length[number * len(by_length) // request.warmup] for number in range(request.warmup))


def _timed(engine: CompletionEngine, prompt: Sequence[int], request: ProbeRequest) -> Timing:
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
    # A completion shorter than the limit ended with a stop token, which took a pass too; the first token took none.
    return min(new_tokens, (decoding.fixed_new_tokens or decoding.max_new_tokens) - 1)


def _quality(
    engine: CompletionEngine, request: ProbeRequest, progress: Callable[[int, int], None]
) -> dict[str, object]:
    """Batches of similar length waste little on padding; the longest first, so that too large a batch fails at once."""
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
    import numpy  # noqa: F401 - every engine needs it; imported after pinning, because it starts threads

    return _status_mb("VmRSS") or _peak_mb()


def _peak_mb() -> float:
    # Not ru_maxrss where it can be helped: across exec it keeps the peak of the parent, which has torch loaded.
    return _status_mb("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_BYTES / _MB


def _status_mb(field: str) -> float | None:
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024 / _MB
    return None


def _pin(cpus: Sequence[int] | None) -> None:
    if cpus is None:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError(f"cpus: {list(cpus)} cannot be pinned to: this system has no CPU affinity; use null")
    usable = os.sched_getaffinity(0)
    if not usable.issuperset(cpus):
        raise ValueError(f"cpus: {list(cpus)} are not all usable by this process, which may use {sorted(usable)}")
    os.sched_setaffinity(0, cpus)


@contextlib.contextmanager
def _stdout_for_the_result_only() -> Iterator[TextIO]:
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stdout:
        os.dup2(2, 1)
        yield stdout


def _print_progress(done: int, total: int) -> None:
    print(json.dumps({"progress": [done, total]}), file=sys.stderr, flush=True)


def main() -> None:
    """Read a request from standard input, write the result to standard output; exit status 2 for a bad request."""
    if len(sys.argv) > 1:
        die_with(int(sys.argv[1]))
    with _stdout_for_the_result_only() as stdout:
        try:
            request = ProbeRequest.model_validate_json(sys.stdin.buffer.read())
            _pin(request.cpus)
        except (ValidationError, ValueError) as error:
            print(f"request: {error}", file=sys.stderr)
            sys.exit(2)
        stdout.write(measure(request, _print_progress).model_dump_json())


if __name__ == "__main__":
    main()
