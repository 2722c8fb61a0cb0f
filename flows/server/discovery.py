"""What `slimline serve` leaves in the home while it runs, so that other commands find its server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from slimline.storage.paths import home

# Everything `serve` starts inherits this from it, with its home as the value: nothing can hide from it.
MARK = "SLIMLINE_SERVED"


@dataclass(frozen=True)
class Served:
    """A running `slimline serve`: its server's URL without a path, and the process, by id and start time."""

    url: str
    pid: int
    started: float

    @property
    def api(self) -> str:
        """Where clients and workers connect."""
        return f"{self.url}/api"

    def publish(self) -> None:
        """Let other commands on this home know."""
        _path().write_text(json.dumps(asdict(self)), "utf8")


def withdraw() -> None:
    """Nothing is served on this home any more."""
    _path().unlink(missing_ok=True)


def served() -> Served | None:
    """What is served on this home; None without, or if it was killed."""
    with suppress(OSError, ValueError, TypeError, psutil.Error):
        found = Served(**json.loads(_path().read_text("utf8")))
        if psutil.Process(found.pid).create_time() == found.started:
            return found
    return None


def marked(home: Path) -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    """Every process that a `slimline serve` on this home started, however indirectly, with its environment."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            environment = process.environ()
            if environment.get(MARK) == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                yield process, environment


def _path() -> Path:
    return home() / "serve.json"
