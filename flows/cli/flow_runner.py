"""A benchmark run from the command line: its problems as messages, not as tracebacks.

    python -m slimline.flows.cli.flow_runner

prepares the state directory (Prefect's database takes half a minute, once), so that the first run need not.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
from contextlib import suppress
from threading import Thread
from time import sleep
from types import FrameType

import psutil
from prefect.context import refresh_global_settings_context
from prefect.settings import PREFECT_API_URL

from slimline.flows.benchmark import Outcome, benchmark
from slimline.flows.config.study import Study
from slimline.flows.nightly import Verdicts, nightly
from slimline.flows.run import failure_reason
from slimline.flows.ui.progress import say
from slimline.storage.extras import missing_extra
from slimline.storage.paths import home

_DATABASE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
_GRACE_S = 3.0


def run_benchmark(study: Study) -> Outcome:
    """Run the benchmark flow; a run that fails as a whole gives an outcome without a run."""
    _make_ready()
    try:
        return benchmark(study)
    except Exception as error:
        return Outcome("", {study.name: _told(error)})


def run_nightly(study: Study) -> Verdicts:
    """Run the nightly flow; one that fails as a whole gives verdicts without a run."""
    _make_ready()
    try:
        return nightly(study)
    except Exception as error:
        return Verdicts("", [], {}, {study.name: _told(error)})


def _make_ready() -> None:
    _end_orphaned_servers()
    _ask_for_token()
    _end_when_told()


def _ask_for_token() -> None:
    """Let the server that Prefect starts for this run answer this run alone, and no page that a browser has open."""
    if not PREFECT_API_URL.value():
        secret = secrets.token_urlsafe()
        os.environ |= {"PREFECT_API_AUTH_STRING": secret, "PREFECT_SERVER_API_AUTH_STRING": secret}
        os.environ["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = "http://127.0.0.1"
        refresh_global_settings_context()


def _told(error: Exception) -> str:
    say(f"the run failed: {failure_reason(error)}")
    return missing_extra(error) or str(error)


def _end_when_told() -> None:
    """End this process soon after Ctrl-C or SIGTERM, whatever it is doing.

    Ctrl-C ends Prefect's ephemeral server as well, and Prefect would go on asking it for minutes; then the run would be
    recorded as a failed one. Threads that are waited for at exit can keep a process for ever. And a handler runs only
    between two of Python's own steps, not while a library computes; so a thread watches for the signals.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    Thread(target=_watch, args=[heard], daemon=True).start()


def _watch(heard: int) -> None:
    while (number := os.read(heard, 1)[0]) not in (signal.SIGINT, signal.SIGTERM):
        pass
    sleep(_GRACE_S)
    _end_now(128 + number)


def _stop(number: int, frame: FrameType | None) -> None:
    """End this process with what runs at exit, such as the end of Prefect's ephemeral server."""
    if number == signal.SIGINT:
        signal.default_int_handler(number, frame)
    sys.exit(128 + number)


def _end_now(status: int) -> None:
    """End this process and what it has started. Everything that is stored is whole at any moment."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            process.kill()
    os._exit(status)


def _end_orphaned_servers() -> None:
    """End ephemeral servers whose run was killed: each would take its share of what is measured here."""
    database = os.environ.get(_DATABASE)
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            is_server = any("prefect.server.api.server" in word for word in process.cmdline())
            if is_server and process.ppid() == 1 and process.environ().get(_DATABASE) == database:
                process.terminate()


def prepare_home() -> None:
    """Create the state directory and Prefect's database in it."""
    from prefect.server.database.dependencies import provide_database_interface  # a second that no run needs
    from prefect.utilities.asyncutils import run_coro_as_sync

    home().mkdir(parents=True, exist_ok=True)
    run_coro_as_sync(provide_database_interface().create_db())


if __name__ == "__main__":
    prepare_home()
