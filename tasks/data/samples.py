"""Line-completion samples, cut from token-level files by the procedure of CodeXGLUE's README.

"We randomly cut a file as two parts. The former part is the input context, models are expected to generate the code
sequence in the latter part until the first <EOL> token (excluding <EOL>)." Its own test file withholds the labels, so
the lines are cut here, seeded, and the cut has a version.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from slimline.tasks.data.lexer import END, EOL, START

CUT_VERSION = 1


MOST_OF_A_PACKAGE = 0.1
"""Share of the samples that one package may have: files of a package resemble each other, and count as fewer."""


class CodeFile(NamedTuple):
    """A lexed file: its name, `<s> tokens </s>`, and the package that it is of, if that is known."""

    name: str
    code: str
    package: str = ""


class Sample(NamedTuple):
    """One line to complete: the file's tokens so far, and the tokens up to the end of the line."""

    id: int
    name: str
    input: str
    gt: str


def cut(file: CodeFile, position: int) -> tuple[str, str]:
    """Input and target of a file cut before the token at `position` (0 is `<s>`)."""
    tokens = file.code.split(" ")
    stop = next(index for index in range(position, len(tokens)) if tokens[index] in (EOL, END))
    return " ".join(tokens[:position]), " ".join(tokens[position:stop])


def cut_positions(file: CodeFile) -> list[int]:
    """Every position a file can be cut at: after `<s>`, before a token that is part of a line."""
    tokens = file.code.split(" ")
    return [index for index, token in enumerate(tokens) if index > 0 and token not in (START, EOL, END)]


def cut_samples(files: Sequence[CodeFile], count: int, seed: int) -> list[Sample]:
    """Exactly `count` samples: one random cut of every file, then a second of every file, and so on.

    A package has at most the share `MOST_OF_A_PACKAGE` of them, or, where there are too few packages for that, as
    little more as is needed.

    Raises:
        ValueError: the files have fewer places to cut than that.
    """
    waiting = [(file, _shuffled_positions(file, seed)) for file in files]
    available = _places(waiting)
    if sum(available.values()) < count:
        raise ValueError(
            f"data.samples: {count} asked for, but the test split's {len(files)} files have only "
            f"{sum(available.values())} places to cut; ask for fewer or add source trees"
        )
    drawn = _draw(waiting, count, _package_limit(available, count))
    return [Sample(index, file.name, *cut(file, position)) for index, (file, position) in enumerate(drawn)]


def _places(files: Sequence[tuple[CodeFile, list[int]]]) -> Counter[str]:
    """Places to cut by package; a file whose package is not known is one of its own."""
    places: Counter[str] = Counter()
    for file, positions in files:
        places[file.package or file.name] += len(positions)
    return places


def _package_limit(available: Counter[str], count: int) -> int:
    """Most samples of one package: the smallest number, from the allowed share on, with which `count` can be drawn."""
    lowest = max(1, int(count * MOST_OF_A_PACKAGE))
    limits = range(lowest, max(lowest, count) + 1)
    enough = bisect_left(limits, count, key=lambda limit: sum(min(limit, places) for places in available.values()))
    return limits[enough]


def _draw(waiting: list[tuple[CodeFile, list[int]]], count: int, limit: int) -> Iterator[tuple[CodeFile, int]]:
    drawn: Counter[str] = Counter()
    while drawn.total() < count:
        waiting = [(file, places) for file, places in waiting if places]
        for file, places in waiting:
            package = file.package or file.name
            if drawn[package] < limit and drawn.total() < count:
                drawn[package] += 1
                yield file, places.pop()


def _shuffled_positions(file: CodeFile, seed: int) -> list[int]:
    positions = cut_positions(file)
    random.Random(f"{CUT_VERSION}/{seed}/{file.name}").shuffle(positions)
    return positions
