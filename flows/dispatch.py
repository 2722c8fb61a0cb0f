"""Measuring on every host at once."""

from __future__ import annotations

from collections.abc import Sequence

from flows.hosts import Local, Pool, Slurm
from flows.measure import measure
from flows.recording import Order


def measure_everywhere(order: Order, hosts: Sequence[Local | Pool | Slurm]) -> None:
    """Measure an order on every host; a host that cannot gets rows that say why, and the others finish."""
    for host in hosts:
        measure(order.at(host).model_copy(update={"minutes": host.limit_minutes}))
