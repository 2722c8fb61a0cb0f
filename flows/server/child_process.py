"""A child process that is started again when it ends."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_LONGEST_DELAY_S = 60.0
_LOG_LINES = 8


class Child:
    """A process that is started again when it ends: at once, then each time later while it keeps ending early."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """Prepare a process without starting it.

        Args:
            name: What messages call it.
            command: Program and arguments.
            environment: All variables that it sees.
            log: Where its output goes; the file of an earlier `slimline serve` is kept beside it.
        """
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

    @property
    def exit_status(self) -> int | None:
        """Its exit status, once it has ended."""
        return self._process.poll() if self._process else None

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it in a session of its own: a terminal's Ctrl-C is for the supervisor, which ends all in order."""
        self._started = time.monotonic()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and modules
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def restart_if_ended(self) -> str | None:
        """Start it again if it has ended, after a delay.

        Returns:
            A sentence for the user when it has just been found to have ended.
        """
        if self.is_alive():
            return None
        now = time.monotonic()
        if self._process is None:
            if now >= self._not_before:
                self.start()
            return None
        ending, self._process = _describe_ending(self._process.returncode), None
        self._failures = 1 if now - self._started > _LONGEST_DELAY_S else self._failures + 1
        delay = min(2.0 ** (self._failures - 1) - 1, _LONGEST_DELAY_S)
        self._not_before = now + delay
        return f"{self.name}: {ending}; starts again {f'in {delay:.0f} s' if delay else 'now'} ({self.log})"

    def stop(self, within_s: float) -> None:
        """Ask it to end, and kill it if it does not in time."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def log_tail(self) -> str:
        """The last lines of its output."""
        return "\n".join(self.log.read_text("utf8", errors="replace").splitlines()[-_LOG_LINES:])


def _describe_ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
