"""What a person watching a run sees, on standard error."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from prefect import get_run_logger
from prefect.exceptions import MissingContextError
from rich.console import Console

from slimline.tasks.runtime.progress import progress_bar

_console = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """One line to the person at the terminal and into the flow run's log."""
    _console.print(text)
    try:
        get_run_logger().info(text)
    except MissingContextError:
        return


class Turns:
    """A progress bar over measuring processes; off a terminal, a line each instead."""

    def __init__(self, total: int) -> None:
        self._bar = progress_bar()
        # The bar must not take the core that is being measured: it is drawn between measurements only.
        self._bar.live.auto_refresh = False
        self._task = self._bar.add_task("measuring", total=total)
        self._turn = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, turn: str) -> None:
        """A measuring process is about to start."""
        self._turn = turn
        self._bar.update(self._task, description=turn)
        self._bar.refresh()

    def end(self, samples_per_s: float | None) -> None:
        """It has ended, with its speed or without."""
        self._bar.advance(self._task)
        if not _console.is_terminal:
            speed = "failed" if samples_per_s is None else f"{samples_per_s:.2f} samples/s"
            _console.print(f"{self._turn}: {speed}")
