"""Progress of long work, for a person at a terminal; a log file gets none of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")
Listener = Callable[[str, float], None]

_listeners: list[Listener] = []


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Meanwhile the listener is told what every long piece of work is doing, and which share of it is done, 0 to 1."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def report(doing: str, share: float) -> None:
    """Tell the listeners."""
    for listener in _listeners:
        listener(doing, share)


class _Bar(Progress):
    """A bar whose every step is reported."""

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._report(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._report(task_id)

    def _report(self, task_id: TaskID) -> None:
        task = self._tasks[task_id]
        if task.total:
            report(task.description, task.completed / task.total)


def progress_bar(*more: TextColumn) -> Progress:
    """A transient bar on standard error that shows nothing where that is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    disable = not sys.stderr.isatty()
    return _Bar(*columns, TimeRemainingColumn(), *more, console=console, transient=True, disable=disable)


def tracked(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """The items, with a bar that counts them."""
    with progress_bar() as bar:
        yield from bar.track(items, total, description=description)
