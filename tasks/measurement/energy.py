"""Energy from RAPL, the processor's energy counters, which Linux offers in its powercap tree.

Source: docs.kernel.org, power/powercap/powercap. Only package domains are read: core and uncore domains are parts of a
package and would count twice, as would `intel-rapl-mmio`, which repeats a package. AMD processors have the same tree.
The counters include all other programs on the host. Virtual machines have no counters, and often only root may read
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

SOURCE = "rapl"
POWERCAP = Path("/sys/class/powercap")


class Counter(NamedTuple):
    """The counter of one package: microjoules so far, and the value after which it starts again at zero."""

    energy_uj: int
    max_energy_range_uj: int


def read_counters(root: Path = POWERCAP) -> dict[str, Counter] | None:
    """The counters of all packages by domain name (`intel-rapl:0`); None if there are none, or one is unreadable."""
    try:
        packages = [domain for domain in sorted(root.glob("intel-rapl:*")) if _is_package(domain)]
        return {domain.name: _read(domain) for domain in packages} or None
    except (OSError, ValueError):
        return None


def joules_between(before: Mapping[str, Counter] | None, after: Mapping[str, Counter] | None) -> float | None:
    """Joules used between two readings, summed over packages; None if a reading is None or their packages differ.

    A counter may start again at zero once between them, which takes minutes at least.
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
