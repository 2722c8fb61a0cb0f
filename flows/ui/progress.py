"""Progress of a run, on standard error."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from prefect import get_run_logger
from prefect.exceptions import MissingContextError
from rich.console import Console

from slimline.storage.metrics.rows import RoundRow
from slimline.tasks.runtime.progress import progress_bar

_console = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Print a line at the terminal, and write it to the flow run's log."""
    _console.print(text)
    try:
        get_run_logger().info(text)
    except MissingContextError:
        return


class TurnProgress:
    """A progress bar over the processes that measure; without a terminal, a line for each instead."""

    def __init__(self, total: int) -> None:
        self._bar = progress_bar()
        # A bar that refreshes by itself would use a core that is being measured: it is drawn between measurements only.
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
        """Say that a process is about to start."""
        self._turn = turn
        self._bar.update(self._task, description=turn)
        self._bar.refresh()

    def end(self, row: RoundRow) -> None:
        """Say that it has ended, and how fast it was."""
        self._bar.advance(self._task)
        if not _console.is_terminal:
            ratio = "" if row.pair_ratio is None else f", {row.pair_ratio:.3g} times as fast as the baseline"
            speed = "failed" if row.samples_per_s is None else f"{row.samples_per_s:.2f} samples/s{ratio}"
            _console.print(f"{self._turn}: {speed}")
