"""A probe as seen from the process that starts it: its result, its turns, and how it ended if it gives none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from types import TracebackType
from typing import IO, Self

from slimline.storage.child_process import module_command
from slimline.tasks.measurement.probe import ProbeRequest, ProbeResult
from slimline.tasks.runtime.isolation import same_addresses, steady_environment
from slimline.tasks.runtime.threads import child_environment

_STDERR_LINES = 20
_PROGRESS = '{"progress": '


class ProbeError(RuntimeError):
    """The probe gave no answer; the message has the reason and the last lines of its standard error.

    Attributes:
        reason: How the process ended.
        status: Its exit status; negative for the signal that killed it.
        stderr: The last lines of its standard error.
    """

    def __init__(self, reason: str, status: int, stderr: Sequence[str]) -> None:
        super().__init__("\n".join([f"measuring process: {reason}", *stderr]))
        self.reason = reason
        self.status = status
        self.stderr = tuple(stderr)


class ProbeProcess:
    """A running probe. Leaving the context ends it; on Linux it also ends with the thread that started it.

    Waiting for it costs no processor time: it has one pipe for its answers, and what it prints goes to a file.
    """

    def __init__(self, request: ProbeRequest) -> None:
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the context is left
        is_timed = request.mode == "speed"
        with same_addresses() if is_timed else nullcontext():
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                module_command("slimline.tasks.measurement.probe", str(os.getpid())),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=child_environment(request.threads) | (steady_environment() if is_timed else {}),
                start_new_session=sys.platform == "linux",  # for its priority; there it ends with this thread anyhow
            )
        self._request = request
        self._expired: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        with suppress(BrokenPipeError):  # what it was told and had not read
            self._process.communicate()
        self._stderr.close()

    def result(self, timeout_s: float, on_progress: Callable[[int, int], None] | None = None) -> ProbeResult:
        """What the request asked for; called once, before the first turn.

        Args:
            timeout_s: Seconds after which the process is killed.
            on_progress: Called in this thread with the number of finished samples and of all samples, while quality is
                measured. If it raises, leave the context.

        Raises:
            ProbeError: the process failed or was killed.
        """
        with self._killed_after(timeout_s):
            self._say(self._request.model_dump_json())
            while (line := self._read()).startswith(_PROGRESS):
                if on_progress:
                    on_progress(*json.loads(line)["progress"])
        return ProbeResult.model_validate_json(line)

    def take_turn(self, samples: Sequence[int], timeout_s: float) -> list[float]:
        """Seconds of each of these samples at equal work. Raises ProbeError as `result` does."""
        with self._killed_after(timeout_s):
            self._say(json.dumps(list(samples)))
            seconds: list[float] = json.loads(self._read())
        return seconds

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: reading says how
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        if not line.endswith("\n"):
            raise self._error()
        return line

    def _error(self) -> ProbeError:
        status = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").splitlines()
        reason = self._expired or _exit_reason(status)
        return ProbeError(reason, status, [line.rstrip() for line in lines[-_STDERR_LINES:]])

    @contextmanager
    def _killed_after(self, timeout_s: float) -> Iterator[None]:
        def expire() -> None:
            self._expired = f"killed after the timeout of {timeout_s:g} s"
            self._process.kill()

        timer = threading.Timer(timeout_s, expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def run_probe(
    request: ProbeRequest, timeout_s: float, on_progress: Callable[[int, int], None] | None = None
) -> ProbeResult:
    """Measure in a new process and wait for its result; see `ProbeProcess.result`."""
    with ProbeProcess(request) as process:
        return process.result(timeout_s, on_progress)


def _exit_reason(status: int) -> str:
    if status >= 0:
        return f"ended with exit status {status}"
    name = signal.Signals(-status).name
    return f"killed by {name}" + (" (as the kernel does when memory runs out)" if name == "SIGKILL" else "")
