"""Progress of long work: a bar on a terminal (log files get none), and calls of listeners."""

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
def progress_listener(listener: Listener) -> Iterator[None]:
    """Call `listener` with the description and the finished share (0 to 1) of all long work, while this is open."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def report(description: str, share: float) -> None:
    """Tell all listeners which share of some work is finished, 0 to 1."""
    for listener in _listeners:
        listener(description, share)


class _Bar(Progress):
    """A progress bar that also reports each change to the listeners."""

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
    """A progress bar on standard error that disappears at its end; nothing is printed where that is not a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    disable = not sys.stderr.isatty()
    return _Bar(*columns, TimeRemainingColumn(), *more, console=console, transient=True, disable=disable)


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield the items while a progress bar counts them."""
    with progress_bar() as bar:
        yield from bar.track(items, total, description=description)
