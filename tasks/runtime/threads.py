"""The threads and CPUs of the processes that measure."""

from __future__ import annotations

import os
from collections.abc import Sequence

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "PYTHONFAULTHANDLER": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime's telemetry adds a thread, and a database that processes share
}


def child_environment(threads: int) -> dict[str, str]:
    """Environment variables of a child process whose libraries are to use `threads` threads, and no network."""
    return {**os.environ, **_ENVIRONMENT, **dict.fromkeys(_THREAD_VARIABLES, str(threads))}


def can_pin() -> bool:
    """Whether this system can restrict a process to some CPUs; macOS cannot."""
    return hasattr(os, "sched_setaffinity")


def pin_process(cpus: Sequence[int]) -> None:
    """Restrict this process to the given CPUs.

    Raises:
        ValueError: this system cannot do that, or the process may not use all of `cpus`.
    """
    if not can_pin():
        raise ValueError(f"cpus: {list(cpus)} cannot be pinned to: this system has no CPU affinity; use null")
    usable = os.sched_getaffinity(0)
    if not usable.issuperset(cpus):
        raise ValueError(f"cpus: {list(cpus)} are not all usable by this process, which may use {sorted(usable)}")
    os.sched_setaffinity(0, cpus)
