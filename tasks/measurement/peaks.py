"""Peak rates of this host: matrix multiplication in each precision, and reading memory.

They are measured by `peak_kernels`, in a process of its own, and kept below home()/peaks: of each rate the largest that
was ever seen, with when and at what load. So a measurement on a busy machine never replaces a better one.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psutil
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError

from slimline.storage import fs
from slimline.storage.child_process import ChildExitError, run_json_module
from slimline.storage.paths import home
from slimline.tasks.runtime.host import describe_host, is_busy, library_versions, usable_cpus
from slimline.tasks.runtime.machine_lock import machine_lock
from slimline.tasks.runtime.threads import child_environment

Precision = Literal["float32", "bfloat16", "int8"]
RateName = Literal["fp32", "bf16", "int8", "read"]

_LIBRARIES = ("numpy", "onnxruntime", "torch")  # those whose kernels are timed
_TIMEOUT_S = 300.0
_FIELDS: dict[RateName, str] = {
    "fp32": "fp32_gflops",
    "bf16": "bf16_gflops",
    "int8": "int8_gops",
    "read": "read_gb_s",
}
_UNITS: dict[RateName, str] = {"fp32": "GFLOP/s", "bf16": "GFLOP/s", "int8": "GOP/s", "read": "GB/s"}


class PeaksError(RuntimeError):
    """The peaks could not be measured; the message ends with the last line that the process printed."""


class Conditions(BaseModel):
    """When a rate was measured, and the load average of the minute before; null where it is not known."""

    model_config = ConfigDict(frozen=True)

    measured: datetime
    load: NonNegativeFloat | None = None


class Peaks(BaseModel):
    """A host's peak rates with a number of threads.

    Files of earlier versions lack the last three fields: then one measurement was kept, whatever the load was.

    Attributes:
        fingerprint: Hash of the hardware, the number of threads and the library versions.
        cpu: Model name of the processor.
        threads: Threads that the kernels used.
        measured: When they were measured last (UTC).
        versions: Versions of the timed libraries.
        fp32_gflops: 10^9 operations per second; a multiply-add is two operations.
        bf16_gflops: The same in bf16; None where bf16 is emulated.
        int8_gops: The same in int8.
        read_gb_s: Memory read, in 10^9 bytes per second.
        kernels: The fastest kernel for fp32, bf16, int8 and read, or the run that was faster.
        conditions: When and at what load each of them was measured.
        measurements: How many measurements they are the best of.
        least_load: The least load at which one was made; None where it is not known.
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
    conditions: dict[str, Conditions] = {}
    measurements: PositiveInt = 1
    least_load: NonNegativeFloat | None = None

    def rate(self, name: RateName) -> float | None:
        """A rate in its unit; None for bf16 where it is emulated."""
        found: float | None = getattr(self, _FIELDS[name])
        return found

    def rate_of(self, precision: Precision) -> RateName:
        """The rate of matrix multiplication in that precision; where bf16 is emulated, it is fp32's."""
        names: dict[Precision, RateName] = {"float32": "fp32", "bfloat16": "bf16", "int8": "int8"}
        return names[precision] if self.rate(names[precision]) else "fp32"

    def operations_per_s(self, precision: Precision) -> float:
        """Peak of matrix multiplication in that precision, per second."""
        return (self.rate(self.rate_of(precision)) or 0.0) * 1e9

    def describe(self) -> dict[str, str]:
        """Each peak as text, with its unit, the kernel that reached it, when, and at what load."""
        texts: dict[str, str] = {name: self._describe(name) for name in _FIELDS if self.rate(name) is not None}
        return texts | {"threads": str(self.threads)}

    def _describe(self, name: RateName) -> str:
        conditions = self.conditions.get(name) or Conditions(measured=self.measured)
        load = "unknown" if conditions.load is None else f"{conditions.load:.2f}"
        when = f"{conditions.measured:%Y-%m-%d %H:%M} UTC, load {load}"
        return f"{self.rate(name):.1f} {_UNITS[name]} ({self.kernels.get(name, 'unknown')}; {when})"


class Beaten(NamedTuple):
    """A rate that was measured in a run and is larger than its peak, in the peak's unit, and what reached it."""

    rate: RateName
    value: float
    by: str

    def describe(self, peaks: Peaks) -> str:
        """By how much it beats the peak."""
        unit, before = _UNITS[self.rate], peaks.rate(self.rate)
        return f"{self.by} reached {self.value:.1f} {unit} ({self.rate}), beyond the kept peak of {before:.1f} {unit}"


class Remeasured(NamedTuple):
    """Peaks as they were measured now, those that are kept, and the file that keeps them."""

    now: Peaks
    kept: Peaks
    path: Path

    @property
    def is_busy(self) -> bool:
        """Whether other work was running, so that what was measured now may be too low."""
        return self.now.least_load is not None and _is_busy(self.now.least_load)


def host_peaks(threads: int) -> Peaks:
    """This host's peaks, from the file of its fingerprint below home()/peaks, or measured now and kept there.

    They are measured again, once, where all measurements so far were made on a busy machine which is not busy any more.
    Measuring takes some seconds, after waiting for the machine lock.

    Raises:
        PeaksError: the kernels do not run, or not in time.
    """
    path = _path(_identity(threads))
    stored = _read_peaks(path)
    if stored and not _is_worth_another(stored):
        return stored
    with machine_lock("measuring the host's peaks"):
        stored = _read_peaks(path)  # another run may have measured them while this one waited
        if stored and not _is_worth_another(stored):
            return stored
        return _keep(path, _measure(threads))


def remeasure_peaks(threads: int) -> Remeasured:
    """Measure this host's peaks now; of each the larger is kept.

    Raises:
        PeaksError: the kernels do not run, or not in time.
    """
    with machine_lock("measuring the host's peaks"):
        now = _measure(threads)
    path = _path({"fingerprint": now.fingerprint})
    return Remeasured(now, _keep(path, now), path)


def raise_peaks(peaks: Peaks, beaten: Mapping[RateName, Beaten]) -> Peaks:
    """The peaks with rates that a run has reached; they are kept, unless larger ones are by now."""
    conditions = Conditions(measured=datetime.now(UTC), load=_load())
    changes = {
        **{_FIELDS[name]: each.value for name, each in beaten.items()},
        "kernels": peaks.kernels | {name: each.by for name, each in beaten.items()},
        "conditions": peaks.conditions | dict.fromkeys(beaten, conditions),
        "measured": conditions.measured,
    }
    return _keep(_path({"fingerprint": peaks.fingerprint}), peaks.model_copy(update=changes), is_new=False)


def best_of(kept: Peaks, new: Peaks, is_new: bool = True) -> Peaks:
    """Of each rate the larger, with its kernel and conditions; `is_new` says that the second is another measurement."""
    faster = [name for name in _FIELDS if (new.rate(name) or 0.0) > (kept.rate(name) or 0.0)]
    loads = [each for each in (kept.least_load, new.least_load) if each is not None]
    return kept.model_copy(
        update={
            **{_FIELDS[name]: new.rate(name) for name in faster},
            "kernels": kept.kernels | {name: new.kernels[name] for name in faster if name in new.kernels},
            "conditions": kept.conditions | {name: new.conditions[name] for name in faster if name in new.conditions},
            "measured": max(kept.measured, new.measured),
            "measurements": kept.measurements + new.measurements if is_new else kept.measurements,
            "least_load": min(loads, default=None),
        }
    )


def _is_worth_another(stored: Peaks) -> bool:
    is_doubtful = stored.least_load is None or _is_busy(stored.least_load)
    return is_doubtful and not _is_busy(_load())


def _load() -> float:
    return psutil.getloadavg()[0]


def _is_busy(load: float) -> bool:
    return is_busy(load, len(usable_cpus()))


def _path(identity: Mapping[str, Any]) -> Path:
    return home() / "peaks" / f"{identity['fingerprint']}.json"


def _keep(path: Path, new: Peaks, is_new: bool = True) -> Peaks:
    """Put the best of what is kept and the new ones there, whoever else is doing so."""
    fs.make_directory(path.parent)
    with FileLock(path.with_suffix(".lock")):
        stored = _read_peaks(path)
        kept = best_of(stored, new, is_new) if stored else new
        fs.write_whole(path.parent, path, kept.model_dump_json(indent=2).encode())
    return kept


def _measure(threads: int) -> Peaks:
    conditions = Conditions(measured=datetime.now(UTC), load=_load())
    rates = _measure_in_child(threads)
    return Peaks.model_validate(
        {
            **_identity(threads),
            **rates,
            "measured": conditions.measured,
            "conditions": dict.fromkeys(rates["kernels"], conditions),
            "least_load": conditions.load,
        }
    )


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
            "slimline.tasks.measurement.peak_kernels",
            *arguments,
            environment=child_environment(threads),
            timeout_s=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise PeaksError(f"the host's peaks: no result in {_TIMEOUT_S:g} s") from None
    except ChildExitError as failure:
        raise PeaksError(f"the host's peaks: {failure}") from None
    return rates
