"""The record of a running `slimline serve` in the state directory, by which other commands find its server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from slimline.storage.fs import start_time
from slimline.storage.paths import home
from slimline.storage.token import write_private

# Every process that `serve` starts, however indirectly, inherits this variable; its value is the state directory.
MARK = "SLIMLINE_SERVE_HOME"
LOGIN_PATH = "/log-in-with"
"""A page of the server: followed by '#' and the token, its address logs the UI in."""


@dataclass(frozen=True)
class ServerRecord:
    """A running `slimline serve`.

    Attributes:
        url: Its server's URL, without a path.
        pid: Identifier of its process.
        started: Its `start_time`: identifiers are used again.
        token: What its API asks for.
    """

    url: str
    pid: int
    started: float
    token: str

    @property
    def api(self) -> str:
        """Where clients and workers connect."""
        return f"{self.url}/api"

    def write(self) -> None:
        """Let other commands with this state directory know."""
        write_private(_path(), json.dumps(asdict(self)))


def remove_record() -> None:
    """Let other commands know that no server runs on this state directory any more."""
    _path().unlink(missing_ok=True)


def running_server() -> ServerRecord | None:
    """The server of this state directory; None if there is none, or if its `serve` was killed."""
    with suppress(OSError, ValueError, TypeError, psutil.Error):
        record = ServerRecord(**json.loads(_path().read_text("utf8")))
        if start_time(record.pid) == record.started:
            return record
    return None


def processes_with_mark(home: Path) -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    """Every process that a `slimline serve` with this state directory started, with its environment."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            environment = process.environ()
            if environment.get(MARK) == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                yield process, environment


def _path() -> Path:
    return home() / "serve.json"
