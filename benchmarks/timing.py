"""Wall time of commands, and the rows of a table of them."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.command import environment

Action = Callable[[], None]


class Figure(NamedTuple):
    """What was timed, and the seconds that it took each time."""

    what: str
    seconds: Sequence[float]

    def row(self) -> str:
        """A row of a Markdown table: median and slowest."""
        return f"| {self.what} | {statistics.median(self.seconds):.2f} | {max(self.seconds):.2f} |"


def header(title: str) -> str:
    """The head of a Markdown table of figures."""
    return f"| {title} | median s | slowest s |\n| --- | ---: | ---: |"


def time_action(action: Action) -> float:
    """Seconds that an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def time_in_turns(actions: dict[str, Action], times: int) -> Iterator[Figure]:
    """Time actions in turns, after one untimed turn: what disturbs the machine for a while disturbs all of them."""
    for action in actions.values():
        action()
    turns = [{what: time_action(action) for what, action in actions.items()} for _ in range(times)]
    for what in actions:
        yield Figure(what, [turn[what] for turn in turns])


def slimline_command(*words: str, home: Path) -> Action:
    """Run the installed `slimline` with its state in `home`."""
    return _process(str(Path(sys.executable).with_name("slimline")), *words, home=home)


def python_command(*words: str, home: Path) -> Action:
    """Run Python with slimline's state in `home`."""
    return _process(sys.executable, *words, home=home)


def _process(*command: str, home: Path) -> Action:
    settings = environment(home)

    def run() -> None:
        subprocess.run(command, cwd=home, env=settings, stdout=subprocess.DEVNULL, check=True)

    return run


def machine() -> str:
    """The machine that measures, and how busy it is."""
    from slimline.tasks.runtime.host import describe_host

    host = describe_host()
    load = f"load average {os.getloadavg()[0]:.1f}"
    return f"{host.cpu}, {host.threads} threads, {host.memory_mb / 1000:.0f} GB; Python {host.python}; {load}"
