"""Measure slimline itself, and print Markdown tables: `python -m benchmarks [SUITE ...]`."""

from __future__ import annotations

import sys
import tempfile
from importlib import import_module
from pathlib import Path

from benchmarks.timing import header, machine

SUITES = ("startup", "queries", "prefect_share", "dashboard")


def main() -> None:
    """Run the suites that are named, or all."""
    names = sys.argv[1:] or SUITES
    if unknown := set(names) - set(SUITES):
        sys.exit(f"{', '.join(sorted(unknown))}: unknown; allowed: {', '.join(SUITES)}")
    print(machine(), flush=True)
    for name in names:
        suite = import_module(f"benchmarks.{name}")
        print(f"\n{header(suite.TITLE)}", flush=True)
        with tempfile.TemporaryDirectory() as directory:
            for figure in suite.measure(Path(directory)):
                print(figure.row(), flush=True)


if __name__ == "__main__":
    main()
