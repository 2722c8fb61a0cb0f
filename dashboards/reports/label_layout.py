"""Where the names of points go in a picture: near their points, over nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

CHARACTER, LINE = 5.9, 13.0  # how wide and high text of 11 pixels is
GAP = 2.0  # from a point's edge to its name
RINGS = (0, 10, 20, 32, 46, 62, 80, 100, 125, 150)
DIRECTIONS = 16
COVERED_POINT, COVERED_NAME, OUTSIDE = 400.0, 900.0, 10_000.0


class Anchor(NamedTuple):
    """A point with a name, in pixels from the upper left corner."""

    text: str
    x: float
    y: float
    radius: float = 6.0


class Label(NamedTuple):
    """Where a name goes: the middle of its left edge; `far` if a line should lead there, to `hook` at its height."""

    text: str
    x: float
    y: float
    far: bool
    hook: float


class _Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: _Box) -> float:
        across = min(self.right, other.right) - max(self.left, other.left)
        along = min(self.bottom, other.bottom) - max(self.top, other.top)
        return across * along if across > 0 and along > 0 else 0.0


def place_labels(points: Sequence[Anchor], width: float, height: float) -> list[Label]:
    """A place for each point's name, in their order: greedily, those in the densest places first."""
    symbols = [_around(point) for point in points]
    crowd = [sum(math.dist(one[1:3], other[1:3]) < 60 for other in points) for one in points]
    taken: list[_Box] = []
    found: dict[int, Label] = {}
    for index in sorted(range(len(points)), key=lambda index: (-crowd[index], points[index].y, points[index].x, index)):
        options = _options(points[index])
        costs = [_cost(ring, box, symbols, taken, (width, height)) for ring, box in options]
        ring, box = options[costs.index(min(costs))]
        taken.append(box)
        hook = min(max(points[index].x, box.left), box.right)
        found[index] = Label(points[index].text, box.left + 2, (box.top + box.bottom) / 2, ring > 0, hook)
    return [found[index] for index in range(len(points))]


def _around(point: Anchor) -> _Box:
    x, y, radius = point[1:]
    return _Box(x - radius, y - radius, x + radius, y + radius)


def _options(point: Anchor) -> list[tuple[int, _Box]]:
    return [(ring, box) for ring in RINGS for box in _ring(point, point.radius + GAP + ring)]


def _ring(point: Anchor, radius: float) -> Iterator[_Box]:
    """Boxes for the name that touch a circle around its point, to the right first."""
    width = CHARACTER * len(point.text) + 4
    for step in range(DIRECTIONS):
        turn = 2 * math.pi * step / DIRECTIONS
        x, y = point.x + radius * math.cos(turn), point.y - radius * math.sin(turn)
        left = x - width * (1 - math.cos(turn)) / 2
        top = y - LINE * (1 + math.sin(turn)) / 2
        yield _Box(left, top, left + width, top + LINE)


def _cost(ring: int, box: _Box, symbols: Sequence[_Box], taken: Sequence[_Box], page: tuple[float, float]) -> float:
    outside = box.left < 0 or box.top < 0 or box.right > page[0] or box.bottom > page[1]
    return (
        ring
        + OUTSIDE * outside
        + sum(COVERED_POINT for symbol in symbols if box.overlap(symbol))
        + sum(COVERED_NAME for other in taken if box.overlap(other))
    )
