"""Peak rates of this host, measured in a process of its own: its kernels use the threads and CPUs of measured runs.

    python -m slimline.tasks.measurement.peak_kernels THREADS PARENT_PID > rates.json

`peaks.host_peaks` starts this command, so that the parent process does not import torch. Every kernel is timed several
times, in turns, and a rate is the best of many short repeats, because a disturbance can only make a repeat slower. Each
precision is timed with several libraries, and the fastest one counts.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psutil

from slimline.storage.child_process import die_with
from slimline.tasks.runtime.host import has_bf16, isa_flags, last_level_cache_bytes, usable_cpus
from slimline.tasks.runtime.threads import can_pin, pin_process

_TURNS = 3
_REPEAT_FOR_S = 0.2
_SIDE = 512  # of one thread's matrices: large enough for full speed, small enough for a short, undisturbed repeat
_PIECE_BYTES = 16 << 20  # read by one thread in one repeat
_LEAST_BUFFER_BYTES = 256 << 20
_CACHES = 4  # the buffer has this many times the size of the last-level caches, so that they hold little of it
_PASSES = 2


def measure_peaks(threads: int) -> dict[str, Any]:
    """Measure the rates and kernels of `Peaks` in this process, with `threads` threads: each the best of some turns."""
    import torch

    torch.set_num_threads(threads)
    side = 64 * round(_SIDE / 64 * math.cbrt(threads))
    operations = 2 * side**3
    kernels = {"fp32": _fp32_kernels(side, threads), "int8": _int8_kernels(side, threads)}
    if has_bf16(isa_flags()):
        kernels["bf16"] = _bf16_kernels(side)
    read = _reader(threads)
    turns = [
        {name: _fastest(them, operations) for name, them in kernels.items()} | {"read": read()} for _ in range(_TURNS)
    ]
    best = {name: max(turn[name] for turn in turns) for name in turns[0]}
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


def _reader(threads: int) -> Callable[[], tuple[float, str]]:
    """What measures the 10^9 bytes per second at which a buffer larger than all caches is read, and by what."""
    import torch

    piece = _PIECE_BYTES * threads
    size = max(_LEAST_BUFFER_BYTES, _CACHES * last_level_cache_bytes())
    pieces = math.ceil(min(size, psutil.virtual_memory().available // 4) / piece)
    buffer = torch.ones(max(2, pieces), piece // 4)
    reductions: Mapping[str, Callable[[Any], object]] = {"torch sum": torch.sum, "torch amax": torch.amax}

    def measure() -> tuple[float, str]:
        times = {name: min(_read_times(buffer, reduction)) for name, reduction in reductions.items()}
        name = min(times, key=lambda each: times[each])
        return piece / times[name], f"{name}, {buffer.nbytes / 1e6:.0f} MB in pieces of {piece / 1e6:.0f} MB"

    return measure


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
