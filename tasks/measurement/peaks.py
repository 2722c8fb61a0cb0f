"""Peak rates of this host: matrix multiplication in each precision, and reading memory.

    python -m slimline.tasks.measurement.peaks THREADS PARENT_PID > peaks.json

`host_peaks` starts this command, so that the parent process does not import torch. The kernels run on the threads and
CPUs that measured runs use. A peak is the best of many short repeats, because a disturbance can only make a repeat
slower. Each precision is timed with several libraries, and the fastest one counts.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, ValidationError

from slimline.storage import fs
from slimline.storage.child_process import ChildExitError, die_with, run_json_module
from slimline.storage.paths import home
from slimline.tasks.runtime.host import (
    describe_host,
    has_bf16,
    isa_flags,
    last_level_cache_bytes,
    library_versions,
    usable_cpus,
)
from slimline.tasks.runtime.machine_lock import machine_lock
from slimline.tasks.runtime.threads import can_pin, child_environment, pin_process

Precision = Literal["float32", "bfloat16", "int8"]

_LIBRARIES = ("numpy", "onnxruntime", "torch")  # those whose kernels are timed
_TIMEOUT_S = 300.0
_REPEAT_FOR_S = 0.3
_SIDE = 512  # of one thread's matrices: large enough for full speed, small enough for a short, undisturbed repeat
_PIECE_BYTES = 16 << 20  # read by one thread in one repeat
_LEAST_BUFFER_BYTES = 256 << 20
_CACHES = 4  # the buffer has this many times the size of the last-level caches, so that they hold little of it
_PASSES = 3


class PeaksError(RuntimeError):
    """The peaks could not be measured; the message ends with the last line that the process printed."""


class Peaks(BaseModel):
    """A host's peak rates with a number of threads.

    Attributes:
        fingerprint: Hash of the hardware, the number of threads and the library versions.
        cpu: Model name of the processor.
        threads: Threads that the kernels used.
        measured: When they were measured (UTC).
        versions: Versions of the timed libraries.
        fp32_gflops: 10^9 operations per second; a multiply-add is two operations.
        bf16_gflops: The same in bf16; None where bf16 is emulated.
        int8_gops: The same in int8.
        read_gb_s: Memory read, in 10^9 bytes per second.
        kernels: The fastest kernel for fp32, bf16, int8 and read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str
    cpu: str
    threads: PositiveInt
    measured: datetime
    versions: dict[str, str]
    fp32_gflops: PositiveFloat
    bf16_gflops: PositiveFloat | None
    int8_gops: PositiveFloat
    read_gb_s: PositiveFloat
    kernels: dict[str, str]

    def operations_per_s(self, precision: Precision) -> float:
        """Peak of matrix multiplication in that precision, per second; where bf16 is emulated, it is fp32's."""
        peak = {"float32": self.fp32_gflops, "bfloat16": self.bf16_gflops or self.fp32_gflops, "int8": self.int8_gops}
        return peak[precision] * 1e9

    def describe(self) -> dict[str, str]:
        """Each peak as text, with its unit and the kernel that reached it."""
        values = {"fp32": (self.fp32_gflops, "GFLOP/s"), "bf16": (self.bf16_gflops, "GFLOP/s")}
        values |= {"int8": (self.int8_gops, "GOP/s"), "read": (self.read_gb_s, "GB/s")}
        known = {name: f"{value:.1f} {unit}" for name, (value, unit) in values.items() if value is not None}
        return {name: f"{text} ({self.kernels[name]})" for name, text in known.items()} | {"threads": str(self.threads)}


def host_peaks(threads: int, remeasure: bool = False) -> Peaks:
    """This host's peaks, from the file of its fingerprint below home()/peaks, or measured now and stored there.

    Measuring takes some seconds, after waiting for the machine lock.

    Args:
        threads: Threads that the kernels use.
        remeasure: Measure even if there is a file.

    Raises:
        PeaksError: the kernels do not run, or not in time.
    """
    identity = _identity(threads)
    path = home() / "peaks" / f"{identity['fingerprint']}.json"
    if not remeasure and (stored := _read_peaks(path)):
        return stored
    with machine_lock("measuring the host's peaks"):
        if not remeasure and (stored := _read_peaks(path)):  # another run has measured them while this one waited
            return stored
        measured = datetime.now(UTC)
        peaks = Peaks.model_validate({**identity, "measured": measured, **_measure_in_child(threads)})
    fs.write_whole(path.parent, path, peaks.model_dump_json(indent=2).encode())
    return peaks


def _identity(threads: int) -> dict[str, Any]:
    """What peaks depend on: the host, the number of threads and the library versions, with their hash."""
    described = describe_host()
    versions = {name: version for name, version in library_versions().items() if name in _LIBRARIES}
    parts = json.dumps([described.fingerprint, threads, versions], sort_keys=True)
    fingerprint = hashlib.sha256(parts.encode()).hexdigest()[:16]
    return {"fingerprint": fingerprint, "cpu": described.cpu, "threads": threads, "versions": versions}


def _read_peaks(path: Path) -> Peaks | None:
    try:
        return Peaks.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _measure_in_child(threads: int) -> dict[str, Any]:
    arguments = str(threads), str(os.getpid())
    try:
        rates: dict[str, Any] = run_json_module(
            "slimline.tasks.measurement.peaks",
            *arguments,
            environment=child_environment(threads),
            timeout_s=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise PeaksError(f"the host's peaks: no result in {_TIMEOUT_S:g} s") from None
    except ChildExitError as failure:
        raise PeaksError(f"the host's peaks: {failure}") from None
    return rates


# -------------------------------------------------------------------------------------------------- the child process


def measure_peaks(threads: int) -> dict[str, Any]:
    """Measure the rates and kernels of `Peaks` in this process, with `threads` threads."""
    import torch

    torch.set_num_threads(threads)
    side = 64 * round(_SIDE / 64 * math.cbrt(threads))
    operations = 2 * side**3
    kernels = {"fp32": _fp32_kernels(side, threads), "int8": _int8_kernels(side, threads)}
    if has_bf16(isa_flags()):
        kernels["bf16"] = _bf16_kernels(side)
    best = {precision: _fastest(them, operations) for precision, them in kernels.items()}
    best["read"] = _fastest_read(threads)
    return {
        "fp32_gflops": best["fp32"][0],
        "bf16_gflops": best["bf16"][0] if "bf16" in best else None,
        "int8_gops": best["int8"][0],
        "read_gb_s": best["read"][0],
        "kernels": {precision: name for precision, (_, name) in best.items()},
    }


Kernels = Mapping[str, Callable[[], object]]


def _fp32_kernels(side: int, threads: int) -> Kernels:
    import torch

    left, right, product = (torch.rand(side, side) for _ in range(3))
    run = _onnx_product("MatMul", left.numpy(), right.numpy(), threads)
    return {f"torch mm, {side}": lambda: torch.mm(left, right, out=product), f"onnxruntime MatMul, {side}": run}


def _bf16_kernels(side: int) -> Kernels:
    import torch

    left, right, product = (torch.rand(side, side).to(torch.bfloat16) for _ in range(3))
    return {f"torch mm, {side}": lambda: torch.mm(left, right, out=product)}


def _int8_kernels(side: int, threads: int) -> Kernels:
    """Products of int8 numbers, accumulated in int32: both factors signed in torch, one unsigned in onnxruntime."""
    import torch

    left, right = (torch.randint(-127, 128, (side, side), dtype=torch.int8) for _ in range(2))
    unsigned = (left.to(torch.int16) + 127).to(torch.uint8)
    run = _onnx_product("MatMulInteger", unsigned.numpy(), right.numpy(), threads)
    return {f"torch _int_mm, {side}": lambda: torch._int_mm(left, right), f"onnxruntime MatMulInteger, {side}": run}


def _onnx_product(operator: str, left: Any, right: Any, threads: int) -> Callable[[], object]:
    """A matrix product by onnxruntime; the right factor is a constant of the graph, as weights are."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    kinds = {"MatMul": ("FLOAT", "FLOAT"), "MatMulInteger": ("UINT8", "INT32")}
    ends = [
        helper.make_tensor_value_info(name, TensorProto.DataType.Value(kind), left.shape)
        for name, kind in zip(("left", "product"), kinds[operator], strict=True)
    ]
    node = helper.make_node(operator, ["left", "right"], ["product"])
    graph = helper.make_graph([node], operator, ends[:1], ends[1:], [numpy_helper.from_array(right, "right")])
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input("left", left)
    binding.bind_output("product", "cpu")
    return lambda: session.run_with_iobinding(binding)


def _fastest(kernels: Kernels, operations: float) -> tuple[float, str]:
    """10^9 operations per second in the fastest repeat of the fastest kernel, and the kernel's name."""
    return max((operations / min(_repeats(kernel)), name) for name, kernel in kernels.items())


def _repeats(kernel: Callable[[], object]) -> Iterator[float]:
    """Nanoseconds of each repeat after the first one, which may allocate or compile something."""
    kernel()
    end = time.perf_counter() + _REPEAT_FOR_S
    while True:
        started = time.perf_counter_ns()
        kernel()
        yield time.perf_counter_ns() - started
        if time.perf_counter() > end:
            return


def _fastest_read(threads: int) -> tuple[float, str]:
    """10^9 bytes per second at which a buffer larger than all caches is read, and the reduction that reads it."""
    import torch

    piece = _PIECE_BYTES * threads
    size = max(_LEAST_BUFFER_BYTES, _CACHES * last_level_cache_bytes())
    pieces = math.ceil(min(size, psutil.virtual_memory().available // 4) / piece)
    buffer = torch.ones(max(2, pieces), piece // 4)
    reductions: Mapping[str, Callable[[Any], object]] = {"torch sum": torch.sum, "torch amax": torch.amax}
    times = {name: min(_read_times(buffer, reduction)) for name, reduction in reductions.items()}
    name = min(times, key=lambda each: times[each])
    return piece / times[name], f"{name}, {buffer.nbytes / 1e6:.0f} MB in pieces of {piece / 1e6:.0f} MB"


def _read_times(buffer: Any, reduction: Callable[[Any], object]) -> Iterator[float]:
    """Nanoseconds for each piece in turn; before a piece is read again, all others have replaced it in the caches."""
    for _ in range(_PASSES):
        for piece in buffer:
            started = time.perf_counter_ns()
            reduction(piece)
            yield time.perf_counter_ns() - started


def main() -> None:
    """Print the rates with the given number of threads as a line of JSON."""
    threads, parent = map(int, sys.argv[1:])
    die_with(parent)
    if can_pin():
        pin_process(usable_cpus()[:threads])
    print(json.dumps(measure_peaks(threads)))


if __name__ == "__main__":
    main()
