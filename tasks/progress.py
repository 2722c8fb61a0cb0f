"""Progress of long work, for a person at a terminal; a log file gets none of it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")


def progress_bar(*more: TextColumn) -> Progress:
    """A transient bar on standard error that shows nothing where that is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    disable = not sys.stderr.isatty()
    return Progress(*columns, TimeRemainingColumn(), *more, console=console, transient=True, disable=disable)


def tracked(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """The items, with a bar that counts them."""
    with progress_bar() as bar:
        yield from bar.track(items, total, description=description)
