"""What a timed process asks of the system, asked for in new processes; each skips where the system refuses."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slimline.tasks.runtime.isolation import raise_priority, same_addresses, steady_environment

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="personality(2) and autogroups are Linux's")
LAYOUT = "import ctypes; print(ctypes.addressof(ctypes.c_int.in_dll(ctypes.pythonapi, 'Py_OptimizeFlag')))"
PRIORITY = """
import os
from pathlib import Path
from slimline.tasks.runtime.isolation import raise_priority

raise_priority()
group = Path("/proc/self/autogroup")
print(os.getpriority(os.PRIO_PROCESS, 0), group.read_text().split()[-1] if group.is_file() else "none")
"""

PAGES = 5000
FAULTS = f"""
import ctypes, resource

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc({PAGES} * resource.getpagesize())
    ctypes.memset(block, 1, {PAGES} * resource.getpagesize())
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def said_by(code: str, **options: Any) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, **options).stdout


@LINUX
def test_processes_that_are_timed_have_the_same_addresses_and_later_ones_have_not() -> None:
    before = Path("/proc/self/personality").read_text("ascii")
    with same_addresses():
        if Path("/proc/thread-self/personality").read_text("ascii") == before:
            pytest.skip("this system does not let a process ask for it")
        found = {said_by(LAYOUT) for _ in range(5)}
    assert len(found) == 1
    assert len({said_by(LAYOUT) for _ in range(5)}) > 1


@LINUX
def test_a_timed_process_runs_before_others_where_it_may() -> None:
    (nice, group) = said_by(PRIORITY, start_new_session=True).split()
    if nice == "0":
        pytest.skip("this user may not raise a priority")
    assert (nice, group in ("-20", "none")) == ("-20", True)
    assert os.getpriority(os.PRIO_PROCESS, 0) > -20


def test_without_the_right_to_it_a_priority_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    before = os.getpriority(os.PRIO_PROCESS, 0)
    raise_priority()
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


@LINUX
def test_each_thread_has_a_cpu_of_its_own_and_all_have_one_heap() -> None:
    environment = steady_environment()
    assert environment["OMP_PROC_BIND"] == "close"
    assert environment["OMP_PLACES"] == "threads"
    assert environment["MALLOC_ARENA_MAX"] == "1"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the variables are glibc's")
def test_what_a_timed_process_frees_it_has_at_hand_from_the_start() -> None:
    assert int(said_by(FAULTS, env=os.environ | steady_environment())) < PAGES // 100
    assert int(said_by(FAULTS)) > PAGES // 2
