"""The Pareto frontier: what nothing else is at least as good as in everything, and better than in something."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether a point is at least as good in every coordinate, and better in one; more is better in each."""
    return tuple(one) != tuple(other) and all(ours >= theirs for ours, theirs in zip(one, other, strict=True))


def pareto_frontier(items: Sequence[T], point: Callable[[T], Sequence[float]]) -> list[T]:
    """The items that no other dominates, in their order; equal ones are on the frontier together."""
    points = [point(item) for item in items]
    return [
        item for item, place in zip(items, points, strict=True) if not any(dominates(other, place) for other in points)
    ]
