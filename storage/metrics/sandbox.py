"""SQL from anyone, in a process of its own that the kernel ends if it takes too much time or memory.

DuckDB keeps its own limits well, but a single call of a function, such as `repeat` or `levenshtein` of long strings, is
neither counted in its memory limit nor ended by an interrupt. Run as a module this file is that process: a request
comes as JSON on standard input; the answer goes as an Arrow stream to standard output, or the reason why there is none,
as text. Standard error has what Python itself says.
"""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from slimline.storage.child_process import module_command

if TYPE_CHECKING:
    import pyarrow as pa

REFUSED = 3  # exit status: standard output says why
OVERTIME_S = 1.0  # how long after its time an interrupted query may still take
POLL_S = 0.01
LONGEST_REASON = 10_000


class Limits(NamedTuple):
    """What one query may take: seconds, and bytes of memory in its process, DuckDB's code and caches included."""

    seconds: float = 60.0
    memory_bytes: int = 2_500_000_000


DEFAULT_LIMITS = Limits()


def ask(url: str, sql: str, limits: Limits = DEFAULT_LIMITS, cancelled: threading.Event | None = None) -> pa.Table:
    """The answer of the metrics store at `url` to one statement from anyone, within limits of time and memory.

    Raises:
        QueryError: it was not answered; also soon after `cancelled` is set.
    """
    import pyarrow as pa

    from slimline.storage.metrics.store import MetricsStore
    from slimline.storage.metrics.user_sql import QueryError

    MetricsStore(url).prepare()  # what takes long once is no part of the query, and this process can say it
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as complaint:
        cancelled = cancelled or threading.Event()
        status = _run({"url": url, "sql": sql, "limits": limits}, (answer, complaint), cancelled)
        if cancelled.is_set():
            raise QueryError("the query was cancelled")
        if status:
            raise QueryError(_text(answer) if status == REFUSED else _why(status, _text(complaint), limits))
        answer.seek(0)
        return pa.ipc.open_stream(answer).read_all()


def _run(request: dict[str, Any], outputs: tuple[IO[bytes], IO[bytes]], cancelled: threading.Event) -> int:
    """The exit status of the process; it never outlives this call."""
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
        module_command("slimline.storage.metrics.sandbox"),
        stdin=subprocess.PIPE,
        stdout=outputs[0],
        stderr=outputs[1],
        start_new_session=True,  # Ctrl-C reaches only this process, which then ends it
    )
    try:
        assert process.stdin is not None
        with process.stdin as stdin:
            stdin.write(json.dumps(request).encode())
        while process.poll() is None and not cancelled.wait(POLL_S):
            pass
    finally:
        process.kill()
        process.wait()
    return process.returncode


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(LONGEST_REASON).decode("utf8", "replace").strip()


def _why(status: int, complaint: str, limits: Limits) -> str:
    if status == -signal.SIGALRM:
        return f"the query was stopped after {limits.seconds:g} s"
    if status == -signal.SIGXFSZ:
        return "the result is too large; aggregate, or add a LIMIT"
    if status in (-signal.SIGABRT, -signal.SIGKILL, -signal.SIGSEGV) or "MemoryError" in complaint:
        return f"the query took too much memory; it may have {limits.memory_bytes / 1e9:.1f} GB"
    said = [line for line in complaint.splitlines() if line.strip(" ^~")]
    return f"the query ended its process, status {status}: {said[-1] if said else 'no reason given'}"


def main() -> None:
    """Answer the request on standard input."""
    request = json.load(sys.stdin)
    limits = Limits(*request["limits"])
    output = io.FileIO(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing but the answer goes there
    _confine(limits)
    from slimline.storage.metrics.store import MetricsStore
    from slimline.storage.metrics.user_sql import QueryError

    store = MetricsStore(request["url"])
    signal.setitimer(signal.ITIMER_REAL, limits.seconds + OVERTIME_S)  # ends the process whatever it is doing
    try:
        _send(store.query(request["sql"], limits.seconds), output)
    except (QueryError, OSError, ValueError) as error:
        output.write(str(error).encode("utf8", "replace")[:LONGEST_REASON])
        os._exit(REFUSED)  # a query that was stopped may still hold its threads
    os._exit(0)


def _confine(limits: Limits) -> None:
    # Not RLIMIT_AS: it counts what is only reserved, of which threads and DuckDB have much.
    resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)


def _send(answer: pa.Table, output: IO[bytes]) -> None:
    import pyarrow as pa

    with output, pa.ipc.new_stream(output, answer.schema) as stream:
        stream.write_table(answer)


if __name__ == "__main__":
    main()
