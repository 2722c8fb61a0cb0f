"""A benchmark run from the command line: its problems as messages, not as tracebacks.

    python -m flows.running

prepares the state directory (Prefect's database takes half a minute, once), so that the first run need not.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

from flows.benchmark import Outcome, benchmark
from flows.progress import say
from flows.study import Study
from storage import home


def run_benchmark(study: Study) -> Outcome:
    """Run the benchmark flow; a run that fails as a whole gives an outcome without a run."""
    signal.signal(signal.SIGTERM, _exit)
    try:
        return benchmark(study)
    except Exception as error:
        say(f"the run failed: {type(error).__name__}: {error}")
        return Outcome("", {study.name: str(error)})


def _exit(number: int, frame: FrameType | None) -> None:
    # A default SIGTERM would skip what runs at exit, and leave Prefect's ephemeral server behind.
    sys.exit(128 + number)


def prepare_home() -> None:
    """Create the state directory and Prefect's database in it."""
    from prefect.server.database.dependencies import provide_database_interface  # a second that no run needs
    from prefect.utilities.asyncutils import run_coro_as_sync

    home().mkdir(parents=True, exist_ok=True)
    run_coro_as_sync(provide_database_interface().create_db())


if __name__ == "__main__":
    prepare_home()
