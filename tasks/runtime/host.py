"""Description of this host, and of the conditions that make measurements slow or unsteady.

Linux is fully supported; on other systems, what cannot be read is left empty. Functions that read system files take
the root of the file tree, so that tests can describe any machine.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import psutil

_ROOT = Path("/")
_X86_FLAGS = (
    *("avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx_vnni"),
    *("avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
)
_ARM_FLAGS = ("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme")
_INT8_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_LIBRARIES = (
    *("ctranslate2", "nncf", "numpy", "onnx", "onnxruntime", "openvino", "pydantic", "rapidfuzz", "safetensors"),
    *("scipy", "tokenizers", "torch", "transformers"),
)
_BUSY_LOAD = 0.25
_MB = 1e6


class Hardware(NamedTuple):
    """The hardware that decides speed, which is the same for two equal machines.

    Attributes:
        cpu: Model name of the processor.
        cores: Physical cores that this process may run on.
        threads: Hardware threads that this process may run on.
        memory_mb: Memory that this process may use, in 10^6 bytes.
        isa: Instruction-set extensions that matter here.
    """

    cpu: str
    cores: int
    threads: int
    memory_mb: int
    isa: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Hash of all fields, 16 hex digits; memory is rounded to 10^9 bytes, as it varies a little between boots."""
        values = {**self._asdict(), "memory_mb": round(self.memory_mb / 1000) * 1000}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


class HostDescription(NamedTuple):
    """A machine as in the table `hosts`, without the run and the time."""

    host: str
    fingerprint: str
    cpu: str
    cores: int
    threads: int
    memory_mb: int
    isa: tuple[str, ...]
    os: str
    python: str
    versions: dict[str, str]


def describe_host() -> HostDescription:
    """Describe this machine and the installed libraries that matter for speed."""
    cpus = usable_cpus()
    hardware = Hardware(
        cpu=cpu_model(),
        cores=_physical_cores(cpus),
        threads=len(cpus),
        memory_mb=round(_memory_bytes() / _MB),
        isa=tuple(isa_flags()),
    )
    return HostDescription(
        host=platform.node(),
        fingerprint=hardware.fingerprint,
        **hardware._asdict(),
        os=f"{_distribution()}, {platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        versions=library_versions(),
    )


def usable_cpus() -> list[int]:
    """Numbers of the CPUs that this process may run on, sorted; all CPUs where the system has no affinity (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def usable_threads(root: Path = _ROOT) -> int:
    """Number of threads that can run at once: the usable CPUs, or fewer if a cgroup quota allows less; at least 1."""
    quota = cgroup_quota(root)
    cpus = len(usable_cpus())
    return cpus if quota is None else max(1, min(cpus, int(quota)))


def cpu_model(root: Path = _ROOT) -> str:
    """The processor's model name, or its architecture if there is none."""
    names = {name for key, name in _cpuinfo(root) if key == "model name"}
    return min(names) if names else platform.processor() or platform.machine()


def isa_flags(root: Path = _ROOT) -> list[str]:
    """The instruction sets that decide which precision is fast, by their Linux names; empty on other systems."""
    present = {flag for key, flags in _cpuinfo(root) if key in {"flags", "Features"} for flag in flags.split()}
    return [flag for flag in (*_X86_FLAGS, *_ARM_FLAGS) if flag in present]


def has_bf16(isa: Iterable[str]) -> bool:
    """Whether these instruction sets can multiply bf16 numbers; otherwise bf16 is emulated in fp32."""
    return bool(_BF16_FLAGS & set(isa))


def last_level_cache_bytes(root: Path = _ROOT) -> int:
    """Total bytes of the last-level caches of the usable CPUs, with shared caches counted once; 0 if unknown."""
    directories = [root / f"sys/devices/system/cpu/cpu{cpu}/cache" for cpu in usable_cpus()]
    caches = [cache for directory in directories for cache in directory.glob("index*")]
    found = {(_text(cache / "level"), _text(cache / "shared_cpu_list")): _cache_bytes(cache) for cache in caches}
    last = max((level or "" for level, _ in found), default="")
    return sum(size for (level, _), size in found.items() if level == last)


def library_versions() -> dict[str, str]:
    """Versions of the installed libraries that influence results, read without importing them."""
    installed = {}
    for name in _LIBRARIES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def cgroup_quota(root: Path = _ROOT) -> float | None:
    """CPU time that the control groups (v1 or v2) allow this process, in CPUs; None if there is no limit.

    The lowest limit from the process's group up to the root counts. Source: docs.kernel.org, admin-guide/cgroup-v2
    (cpu.max) and scheduler/sched-bwc (cpu.cfs_quota_us).
    """
    quotas = [_quota(directory) for directory in _cgroup_directories(root, "cpu")]
    return min((quota for quota in quotas if quota is not None), default=None)


@dataclass(frozen=True)
class Conditions:
    """What may slow or disturb a measurement.

    Attributes:
        cpus: Number of usable CPUs.
        quota: cgroup limit in CPUs; None if there is no limit.
        isa: Instruction-set extensions that matter here.
        load: Mean number of runnable threads over the last minute.
        governor: CPU frequency governor; None if unknown.
        swap_used_mb: Swap in use, in 10^6 bytes.
    """

    cpus: int
    quota: float | None
    isa: tuple[str, ...]
    load: float
    governor: str | None
    swap_used_mb: float

    @classmethod
    def now(cls, root: Path = _ROOT) -> Conditions:
        """The conditions at this moment."""
        governor = root / "sys/devices/system/cpu" / f"cpu{usable_cpus()[0]}" / "cpufreq/scaling_governor"
        return cls(
            cpus=len(usable_cpus()),
            quota=cgroup_quota(root),
            isa=tuple(isa_flags(root)),
            load=psutil.getloadavg()[0],
            governor=_text(governor),
            swap_used_mb=psutil.swap_memory().used / _MB,
        )


def usable_weight_bits() -> int:
    """Bits of a weight with which this CPU adds products of 8-bit numbers without saturation: 8 or 7.

    x86 processors without VNNI add pairs of u8 x s8 products in 16 bits, which can overflow with weights of more than 7
    bits (onnxruntime's "reduce_range"). If the flags of an x86 processor are unknown, it is 7.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return 8
    return 8 if {"avx512_vnni", "avx_vnni"} & set(isa_flags()) else 7


def warnings(conditions: Conditions) -> list[str]:
    """What will be slow or noisy under these conditions and why, one sentence each."""
    checks = (_instruction_warnings, _processor_warnings, _disturbance_warnings)
    return [warning for check in checks for warning in check(conditions)]


def _instruction_warnings(now: Conditions) -> Iterable[str]:
    if not now.isa:
        yield "The processor's instruction sets are unknown: int8 and bf16 may be fast or slow here."
        return
    if not _INT8_FLAGS & set(now.isa):
        yield "No int8 dot product (VNNI, AMX or Arm's equivalents): here int8 saves disk, but hardly any time."
    if not has_bf16(now.isa):
        yield "No bf16 arithmetic: bf16 is emulated here and slower than fp32."


def _processor_warnings(now: Conditions) -> Iterable[str]:
    if now.cpus == 1:
        yield "There is only one CPU: the system's own work interrupts every measurement."
    if now.quota is not None and now.quota < now.cpus:
        yield f"A cgroup allows {now.quota:g} of {now.cpus} CPUs: with more threads than that, timings are throttled."
    if now.governor == "powersave":
        yield "The CPU frequency governor is powersave: the clock rate and all timings may vary."


def is_busy(load: float, cpus: int) -> bool:
    """Whether other work disturbs timings: at that load average, on so many CPUs."""
    return load > _BUSY_LOAD * cpus


def _disturbance_warnings(now: Conditions) -> Iterable[str]:
    if is_busy(now.load, now.cpus):
        yield f"The load average is {now.load:.2f} on {now.cpus} CPUs: other work is running and disturbs timings."
    if now.swap_used_mb >= 1:
        yield f"{now.swap_used_mb:.0f} MB of swap are in use: resident memory may be understated and timings unsteady."


def _physical_cores(cpus: list[int], root: Path = _ROOT) -> int:
    topologies = [root / f"sys/devices/system/cpu/cpu{cpu}/topology" for cpu in cpus]
    cores = {(_text(path / "physical_package_id"), _text(path / "core_id")) for path in topologies}
    if any(None in core for core in cores):
        return min(len(cpus), psutil.cpu_count(logical=False) or len(cpus))
    return len(cores)


def _memory_bytes(root: Path = _ROOT) -> int:
    limits = [int(psutil.virtual_memory().total)]
    for directory in _cgroup_directories(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _text(directory / name)
            limits += [int(limit)] if limit and limit.isdecimal() else []
    return min(limits)


def _cache_bytes(cache: Path) -> int:
    size = _text(cache / "size") or ""
    return int(size.removesuffix("K")) * 1024 if size.endswith("K") else 0


def _quota(directory: Path) -> float | None:
    unified = (_text(directory / "cpu.max") or "max").split()
    quota, period = unified if len(unified) == 2 else (_text(directory / "cpu.cfs_quota_us"), None)
    period = period or _text(directory / "cpu.cfs_period_us")
    if quota in {None, "max", "-1"} or not period:
        return None
    return int(str(quota)) / int(period)


def _cgroup_directories(root: Path, controller: str) -> list[Path]:
    """The process's group of that controller and all its visible parents, in both hierarchies (v1 and v2)."""
    mount = root / "sys/fs/cgroup"
    directories = []
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            top = mount / controller if controllers else mount
            group = PurePosixPath(path.lstrip("/"))
            directories += [top / group, *(top / parent for parent in group.parents)]
    return directories


def _cpuinfo(root: Path) -> list[tuple[str, str]]:
    lines = (_text(root / "proc/cpuinfo") or "").splitlines()
    return [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.platform(terse=True)


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return None
