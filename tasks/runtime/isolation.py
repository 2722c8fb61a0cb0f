"""What a process that is timed asks of the system, so that other programs, and luck, move its times less.

None of it takes more than the system allows: what is refused is left out, and the noise floor tells.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_HIGHEST = -20
_AUTOGROUP = Path("/proc/self/autogroup")  # sched(7): where it is on, niceness counts within a session only
_ANY = 0xFFFFFFFF
_ADDR_NO_RANDOMIZE = 0x0040000  # personality(2)
_BOUND = {"OMP_PROC_BIND": "close", "OMP_PLACES": "threads"}
# mallopt(3): glibc's; other C libraries do not read it. 32 MiB is the highest that it would reach by itself.
_STEADY_HEAP = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "33554432"}


def steady_environment() -> dict[str, str]:
    """Environment variables that keep each OpenMP thread on a CPU of its own, and all threads to one steady heap.

    glibc gives a thread a heap by who asks first, and learns from what a process frees which buffers it returns to the
    system at once; each of the next ones then costs page faults. So processes of torch that did the same had speeds 5
    to 8 % apart, for as long as they lived. No variables where a system cannot pin.
    """
    return _BOUND | _STEADY_HEAP if hasattr(os, "sched_setaffinity") else {}


def raise_priority() -> None:
    """Have this process, the only one of its session, run before ordinary ones; that takes CAP_SYS_NICE.

    A process of two threads waits for the one that another program has put aside: one busy core out of two makes it
    more than three times as slow, at random.
    """
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _HIGHEST)
        _AUTOGROUP.write_text(str(_HIGHEST), "utf8")


@contextmanager
def same_addresses() -> Iterator[None]:
    """Processes that this thread starts have their code and memory at the same addresses, where Linux allows it.

    Random ones (ASLR) change from process to process how well caches and TLBs hold a library's code and data (Mytkowicz
    et al., Producing Wrong Data Without Doing Anything Obviously Wrong, ASPLOS 2009).
    """
    if sys.platform != "linux":
        yield
        return
    libc = ctypes.CDLL(None)
    before = libc.personality(_ANY)
    libc.personality(before | _ADDR_NO_RANDOMIZE)
    try:
        yield
    finally:
        libc.personality(before)
