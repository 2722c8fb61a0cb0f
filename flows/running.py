"""A benchmark run from the command line: its problems as messages, not as tracebacks."""

from __future__ import annotations

from flows.benchmark import Outcome, benchmark
from flows.progress import say
from flows.study import Study


def run_benchmark(study: Study) -> Outcome:
    """Run the benchmark flow; a run that fails as a whole gives an outcome without a run."""
    try:
        return benchmark(study)
    except Exception as error:
        say(f"the run failed: {type(error).__name__}: {error}")
        return Outcome("", {study.name: str(error)})
