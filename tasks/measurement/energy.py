"""Energy from RAPL, the processor's own counters, through Linux's powercap tree.

Source: docs.kernel.org, power/powercap/powercap. Package domains only: core, uncore and dram domains lie inside a
package or beside it and would count twice, and `intel-rapl-mmio` repeats a package. AMD processors appear in the same
tree. The counters cover everything the packages run, so a busy host inflates them. Virtual machines have no such tree,
and many kernels let only root read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

SOURCE = "rapl"
POWERCAP = Path("/sys/class/powercap")


class Counter(NamedTuple):
    """One package's counter: microjoules so far, and the value after which it starts again from zero."""

    energy_uj: int
    max_energy_range_uj: int


def read_counters(root: Path = POWERCAP) -> dict[str, Counter] | None:
    """The counters of all packages by domain name (`intel-rapl:0`).

    None if there are none, or if any cannot be read: a sum over some of the packages would be a wrong number.
    """
    try:
        packages = [domain for domain in sorted(root.glob("intel-rapl:*")) if _is_package(domain)]
        return {domain.name: _read(domain) for domain in packages} or None
    except (OSError, ValueError):
        return None


def joules_between(before: Mapping[str, Counter] | None, after: Mapping[str, Counter] | None) -> float | None:
    """Joules used between two readings, summed over packages; None if either is None or their packages differ.

    A counter that wrapped around is corrected once: the readings must be closer than a full range, minutes at least.
    """
    if before is None or after is None or before.keys() != after.keys():
        return None
    return sum(_used_uj(before[name], after[name]) for name in before) / 1e6


def _is_package(domain: Path) -> bool:
    return (domain / "name").read_text().strip().startswith("package-")


def _read(domain: Path) -> Counter:
    return Counter(int((domain / "energy_uj").read_text()), int((domain / "max_energy_range_uj").read_text()))


def _used_uj(before: Counter, after: Counter) -> int:
    used = after.energy_uj - before.energy_uj
    return used if used >= 0 else used + after.max_energy_range_uj
