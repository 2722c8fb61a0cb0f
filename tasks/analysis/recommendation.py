"""Which variant to ship: the fastest of those that surely keep the constraints, and why each of the others loses.

Pure: rows of the result table in, a recommendation out. A constraint holds for the worse end of a figure's 95 %
interval (an exact figure is its own bound), so that bad luck does not break it. Among the variants that keep them, less
those that another of them dominates, the highest speed at equal work wins. Each other is compared with it round by
round, so that what the baseline's process of a round was like cancels; these intervals hold together, however many
variants there are. Of those that may be as fast, the smallest on disk wins, then the smallest in memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from typing import NamedTuple

from slimline.storage.queries.results import NO_FIGURE, Figure, ResultRow
from slimline.storage.text import NONE, clean
from slimline.tasks.analysis.pareto import dominates, pareto_frontier
from slimline.tasks.analysis.significance import NOT_ENOUGH
from slimline.tasks.analysis.statistics import FEWEST, Interval, paired_ratio

Rows = Sequence[ResultRow]


class _Limit(NamedTuple):
    """What a constraint bounds: the metric, from above or from below, and how it is called."""

    metric: str
    upper: bool
    name: str
    unit: str


_LIMITS = {
    "max_es_drop": _Limit("es_drop", True, "ES drop", " points"),
    "max_em_drop": _Limit("em_drop", True, "EM drop", " points"),
    "max_memory_mb": _Limit("memory_mb", True, "memory", " MB"),
    "max_disk_mb": _Limit("disk_mb", True, "disk", " MB"),
    "min_samples_per_s": _Limit("samples_per_s", False, "samples/s", ""),
}
_OF_QUALITY = ("max_es_drop", "max_em_drop")
_AXES = {"speed_ratio": 1, "disk_mb": -1, "memory_over_base_mb": -1}  # ES beside; 1: the more the better
_SIZE = ("disk_mb", "memory_over_base_mb")
_NEEDED = tuple(_AXES)
_SHOWN = ("es", "es_drop", "em_drop", "samples_per_s", "speed_ratio", "disk_mb", "memory_mb", "memory_over_base_mb")


@dataclass(frozen=True)
class Constraints:
    """What a variant must keep; null: anything. Drops in points below the baseline, sizes in MB of 10^6 bytes.

    Raises ValueError for a bound that is not finite.
    """

    max_es_drop: float | None = None
    max_em_drop: float | None = None
    max_memory_mb: float | None = None
    max_disk_mb: float | None = None
    min_samples_per_s: float | None = None

    def __post_init__(self) -> None:
        for name, bound in self.bounds().items():
            if not math.isfinite(bound):
                raise ValueError(f"{name}: {bound} is not a bound; allowed: a finite number")

    def bounds(self) -> dict[str, float]:
        """The constraints that there are, by name."""
        bounds = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: bound for name, bound in bounds.items() if bound is not None}


DEFAULT = Constraints(max_es_drop=2.0)


@dataclass(frozen=True)
class Candidate:
    """A variant: its figures by metric, the constraints it surely keeps or not, and why it is not the one to ship."""

    variant: str
    label: str | None
    random_weights: bool
    reference: str | None
    """The variant that its drops of quality are measured against."""
    figures: dict[str, Figure]
    on_frontier: bool
    unkept: tuple[str, ...]
    """Names of the constraints that it breaks, that its interval reaches over, or whose metric is missing."""
    loses: tuple[str, ...]
    """Why it is not recommended; empty for the winner."""


@dataclass(frozen=True)
class Relaxation:
    """The variant that needs the least, and the bounds at which it would keep every constraint."""

    variant: str
    bounds: dict[str, float]


@dataclass(frozen=True)
class Recommendation:
    """What to ship from one run on one host, or nothing (`winner` null) and then which constraints exclude all."""

    study: str
    run: str
    host: str
    noise_floor: float | None
    tainted: bool
    constraints: dict[str, float]
    winner: str | None
    rule: str
    """What decided."""
    provisional: str | None
    """Why it may not hold on another day; null where nothing speaks against it."""
    candidates: tuple[Candidate, ...]
    measured: int
    """How many of them were measured in all that a choice takes."""
    excluded_by: dict[str, int]
    """By constraint, how many of those it excludes."""
    relaxation: Relaxation | None
    """Null if there is a winner, or if no bound would give one."""


def recommend(rows: Rows, constraints: Constraints = DEFAULT) -> Recommendation:
    """The verdict on the rows of one run on one host, as `slimline.storage.queries.results.host_rows` gives them.

    Without any constraint the default ones hold. Raises ValueError for no rows or those of several runs or hosts.
    """
    if len({(row.run, row.host) for row in rows}) != 1:
        raise ValueError("rows: a recommendation is for one run on one host")
    bounds = constraints.bounds() or DEFAULT.bounds()
    measured = [row for row in rows if not _unmeasured(row)]
    unkept = {row.variant: [name for name in bounds if _shortfall(row, name, bounds[name])] for row in rows}
    admissible = [row for row in measured if not unkept[row.variant]]
    choice = _choose(admissible) if admissible else None
    frontier = {row.variant for row in pareto_frontier(measured, _point)}
    candidates = [
        Candidate(
            variant=row.variant,
            label=row.label,
            random_weights=bool(row.random_weights),
            reference=row.reference,
            figures={metric: _figure(row, metric) for metric in _SHOWN},
            on_frontier=row.variant in frontier,
            unkept=tuple(unkept[row.variant]),
            loses=tuple(_unmeasured(row) or _shortfalls(row, bounds) or _beaten(row, measured, unkept, choice)),
        )
        for row in rows
    ]
    first = rows[0]
    return Recommendation(
        study=first.study,
        run=first.run,
        host=first.host,
        noise_floor=first.noise_floor,
        tainted=bool(first.tainted),
        constraints=bounds,
        winner=choice.winner.variant if choice and choice.winner else None,
        rule=choice.rule if choice else "no variant surely keeps the constraints",
        provisional=_doubt(first),
        candidates=tuple(candidates),
        measured=len(measured),
        excluded_by={name: sum(name in unkept[row.variant] for row in measured) for name in bounds},
        relaxation=None if choice else _relaxation(measured, bounds),
    )


def _doubt(row: ResultRow) -> str | None:
    """What speaks against the speeds of a run on a host."""
    if not row.tainted:
        return None
    noise = "unknown" if row.noise_floor is None else f"{100 * row.noise_floor:.1f} %"
    return f"the noise floor is {noise}: too high to trust the speeds"


def _figure(row: ResultRow, metric: str) -> Figure:
    hidden = row.random_weights and metric in ("es", "es_drop", "em_drop")
    return NO_FIGURE if hidden else row.figure(metric)


def _unmeasured(row: ResultRow) -> list[str]:
    """Why a variant cannot be compared at all."""
    if row.error:
        return [f"failed: {clean(row.error)}"]
    missing = [f"not measured: {metric}" for metric in _NEEDED if row.value(metric) is None]
    if row.value("speed_ratio") is None and row.value("line_speed_ratio") is not None:
        return [*missing, "the run is older than measuring at equal work: run the study again"]
    return missing


def _shortfall(row: ResultRow, name: str, bound: float) -> str | None:
    """How a variant fails to keep a constraint surely; null if it keeps it."""
    limit = _LIMITS[name]
    if row.random_weights and name in _OF_QUALITY:
        return "random weights have no quality"
    figure = _figure(row, limit.metric)
    if figure.value is None:
        return f"{limit.name} was not measured"
    if _is_unsure(figure, limit):
        return f"{limit.name}: {NOT_ENOUGH}"
    against = f" against {clean(row.reference)}" if name in _OF_QUALITY and row.reference else ""
    shown = f"{figure_text(figure)}{against}"
    if not _keeps(_better_end(figure, limit), limit, bound):
        return f"breaks {constraint_text(name, bound)}: {shown}"
    if not _keeps(_worse_end(figure, limit), limit, bound):
        return f"may break {constraint_text(name, bound)}, as its interval reaches over it: {shown}"
    return None


def _is_unsure(figure: Figure, limit: _Limit) -> bool:
    """Whether too little was measured to know how a speed varies."""
    return limit.metric == "samples_per_s" and figure.lo is None


def _shortfalls(row: ResultRow, bounds: Mapping[str, float]) -> list[str]:
    found = (_shortfall(row, name, bound) for name, bound in bounds.items())
    return list(dict.fromkeys(reason for reason in found if reason))


def _keeps(value: float, limit: _Limit, bound: float) -> bool:
    return value <= bound if limit.upper else value >= bound


def _better_end(figure: Figure, limit: _Limit) -> float:
    return min(_ends(figure)) if limit.upper else max(_ends(figure))


def _worse_end(figure: Figure, limit: _Limit) -> float:
    return max(_ends(figure)) if limit.upper else min(_ends(figure))


def _ends(figure: Figure) -> list[float]:
    return [end for end in (figure.lo, figure.value, figure.hi) if end is not None]


def _number(row: ResultRow, metric: str) -> float:
    """A figure that a measured variant has: `_unmeasured` has seen to it."""
    value = row.value(metric)
    assert value is not None
    return value


def _point(row: ResultRow) -> tuple[float, ...]:
    """A measured variant's place, the greater the better in each; without a quality it is the worst in that."""
    quality = _figure(row, "es").value
    return (-math.inf if quality is None else quality, *(sign * _number(row, name) for name, sign in _AXES.items()))


def _dominates(one: ResultRow, other: ResultRow) -> bool:
    return dominates(_point(one), _point(other))


class _Choice(NamedTuple):
    """The winner, the fastest, all that may be as fast, and what decided; no winner where not enough was measured."""

    winner: ResultRow | None
    fastest: ResultRow
    as_fast: list[str]
    rule: str


def _choose(admissible: Rows) -> _Choice:
    rows = pareto_frontier(admissible, _point)
    fastest = max(rows, key=lambda row: (_number(row, "speed_ratio"), row.variant))
    slower = {row.variant: _times_slower(row, fastest, len(rows) - 1) for row in rows if row is not fastest}
    if any(found.lo is None for found in slower.values()):
        return _Choice(None, fastest, [], NOT_ENOUGH)
    as_fast = [row for row in rows if row is fastest or (slower[row.variant].lo or 0) <= 1]
    winner = min(as_fast, key=lambda row: (*_size(row), -_number(row, "speed_ratio"), row.variant))
    others = ", ".join(clean(row.variant) for row in as_fast if row is not winner)
    if len(admissible) == 1:
        rule = "the only one that keeps the constraints"
    elif len(rows) == 1:
        rule = "no other that keeps the constraints is better in anything: ES, speed, disk or memory"
    elif not others:
        slower_or_worse = "each other is surely slower, round by round, or no better in anything"
        rule = f"the fastest that keeps the constraints: {slower_or_worse}"
    elif winner is fastest:
        rule = f"the fastest that keeps the constraints, and the smallest of those that may be as fast: also {others}"
    else:
        rule = f"the smallest of those that may be as fast as {clean(fastest.variant)}: none is surely slower"
    return _Choice(winner, fastest, [row.variant for row in as_fast], rule)


def _times_slower(row: ResultRow, fastest: ResultRow, comparisons: int) -> Interval:
    """How many times as fast as a variant the fastest is; with so many comparisons, all their intervals hold together.

    One interval each would miss one of 24 in most runs. It has no ends where they share fewer than two rounds.
    """
    ours, theirs = _speeds(fastest, row), _speeds(row, fastest)
    if len(ours.keys() & theirs.keys()) < FEWEST:
        return Interval(_number(fastest, "speed_ratio") / _number(row, "speed_ratio"), None, None, 1)
    return paired_ratio(ours, theirs, comparisons)


def _speeds(row: ResultRow, other: ResultRow) -> Mapping[int, float]:
    """By round, how many times as fast as the baseline's process; the baseline itself is that process."""
    return dict.fromkeys(other.pair_ratios, 1.0) if row.is_baseline else row.pair_ratios


def _size(row: ResultRow) -> tuple[float, float]:
    disk, memory = (_number(row, metric) for metric in _SIZE)
    return disk, memory


def _beaten(row: ResultRow, measured: Rows, unkept: Mapping[str, Sequence[str]], choice: _Choice | None) -> list[str]:
    """Why a variant that keeps the constraints is not the winner; nothing for the winner itself."""
    if choice is None or choice.winner is None:
        return [choice.rule] if choice else []
    if row is choice.winner:
        return []
    better = [one for one in (choice.winner, *measured) if not unkept[one.variant] and _dominates(one, row)]
    if better:
        return [f"dominated by {clean(better[0].variant)}: no better in ES, speed, disk or memory"]
    if row.variant in choice.as_fast:
        disk, memory = ([number_text(_number(one, metric)) for one in (row, choice.winner)] for metric in _SIZE)
        sizes = f"{disk[0]} MB on disk, {memory[0]} over base in memory, against {disk[1]} and {memory[1]}"
        return [f"not surely faster, and not smaller: {sizes}"]
    speeds = [figure_text(_figure(one, "speed_ratio")) for one in (row, choice.fastest)]
    return [f"slower than {clean(choice.fastest.variant)}: {speeds[0]} times the baseline, against {speeds[1]}"]


def _relaxation(measured: Rows, bounds: Mapping[str, float]) -> Relaxation | None:
    """The fewest bounds, and of those the least changed ones, with which some variant would keep them all."""
    options = []
    for row in measured:
        needed = {name: _needed(row, name) for name, bound in bounds.items() if _shortfall(row, name, bound)}
        possible = {name: bound for name, bound in needed.items() if bound is not None}
        if len(possible) == len(needed):
            change = max(abs(to - bounds[name]) / (abs(bounds[name]) or 1.0) for name, to in possible.items())
            options.append((len(possible), change, row.variant, possible))
    return Relaxation(*min(options, key=lambda option: option[:3])[2:]) if options else None


def _needed(row: ResultRow, name: str) -> float | None:
    """The bound that a variant would surely keep, rounded away from it to three digits; null if none is known."""
    limit = _LIMITS[name]
    figure = _figure(row, limit.metric)
    if figure.value is None or _is_unsure(figure, limit):
        return None
    outwards = Context(prec=3, rounding=ROUND_CEILING if limit.upper else ROUND_FLOOR)
    return float(outwards.create_decimal_from_float(_worse_end(figure, limit)))


def figure_text(figure: Figure) -> str:
    """A figure for people: its value and interval, or the sign for none."""
    if figure.value is None:
        return NONE
    interval = (
        "" if figure.lo is None or figure.hi is None else f" [{number_text(figure.lo)}, {number_text(figure.hi)}]"
    )
    return number_text(figure.value) + interval


def number_text(value: float) -> str:
    """A figure for people: four digits, but no fewer than a whole number has."""
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"


def constraint_text(name: str, bound: float) -> str:
    """A constraint for people, such as `disk at most 20 MB`."""
    limit = _LIMITS[name]
    return f"{limit.name} {'at most' if limit.upper else 'at least'} {bound:g}{limit.unit}"
