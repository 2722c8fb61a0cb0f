"""A child process that is kept alive."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_LONGEST_DELAY_S = 60.0


class Child:
    """A process that is started again when it ends: at once, then each time later while it keeps ending young."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """What it prints goes to `log`; that of an earlier start of the supervisor is kept beside it."""
        self.name, self.log = name, log
        self._command, self._environment = command, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._failures, self._started, self._not_before = 0, 0.0, 0.0
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists():
            log.replace(log.with_suffix(".old.log"))

    @property
    def pid(self) -> int | None:
        """Its process, while there is one."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it in a session of its own: a terminal's Ctrl-C is for the supervisor, which ends all in order."""
        self._started = time.monotonic()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def status(self) -> int | None:
        """Its exit status, once it has ended."""
        return self._process.poll() if self._process else None

    def keep(self) -> str | None:
        """Start it again if it has ended, after a delay; a sentence when there is something to tell."""
        if self.is_alive():
            return None
        now = time.monotonic()
        if self._process is None:
            if now >= self._not_before:
                self.start()
            return None
        how, self._process = _how_it_ended(self._process.returncode), None
        self._failures = 1 if now - self._started > _LONGEST_DELAY_S else self._failures + 1
        delay = min(2.0 ** (self._failures - 1) - 1, _LONGEST_DELAY_S)
        self._not_before = now + delay
        return f"{self.name}: {how}; starts again {f'in {delay:.0f} s' if delay else 'now'} ({self.log})"

    def end(self, within_s: float) -> None:
        """Ask it to end, and kill it if it does not in time."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def last_words(self) -> str:
        """The end of what it printed."""
        return "\n".join(self.log.read_text("utf8", errors="replace").splitlines()[-8:])


def _how_it_ended(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
