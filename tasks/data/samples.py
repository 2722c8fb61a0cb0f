"""Line-completion samples, cut from token-level files by the procedure of CodeXGLUE's README.

"We randomly cut a file as two parts. The former part is the input context, models are expected to generate the code
sequence in the latter part until the first <EOL> token (excluding <EOL>)." Its own test file withholds the labels, so
the lines are cut here, seeded, and the cut has a version.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from slimline.tasks.data.lexer import END, EOL, START

CUT_VERSION = 1


class CodeFile(NamedTuple):
    """A lexed file: its name and `<s> tokens </s>`."""

    name: str
    code: str


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

    Raises:
        ValueError: the files have fewer places to cut than that.
    """
    drawn = list(_draw(files, count, seed))
    if len(drawn) < count:
        raise ValueError(
            f"data.samples: {count} asked for, but the test split's {len(files)} files have only {len(drawn)} places "
            "to cut; ask for fewer or add source trees"
        )
    return [Sample(index, file.name, *cut(file, position)) for index, (file, position) in enumerate(drawn)]


def _draw(files: Sequence[CodeFile], count: int, seed: int) -> Iterator[tuple[CodeFile, int]]:
    waiting = [(file, _shuffled_positions(file, seed)) for file in files]
    left = count
    while left > 0 and (waiting := [(file, positions) for file, positions in waiting if positions]):
        for file, positions in waiting[:left]:
            yield file, positions.pop()
        left -= len(waiting)


def _shuffled_positions(file: CodeFile, seed: int) -> list[int]:
    positions = cut_positions(file)
    random.Random(f"{CUT_VERSION}/{seed}/{file.name}").shuffle(positions)
    return positions
