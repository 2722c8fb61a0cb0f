"""How long a command takes before and while it does the least that it can do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks.timing import Figure, python_command, slimline_command, time_in_turns
from tests.command import ROOT

TITLE = "start-up, a store of two runs"
TIMES = 10
IMPORTS = {
    "the metrics store": "slimline.storage.metrics.store",
    "a study": "slimline.flows.config.study",
    "the flows (Prefect)": "slimline.flows.benchmark",
    "the engine torch": "slimline.tasks.engines.torch_engine",
    "the engine onnxruntime": "slimline.tasks.engines.onnx_engine",
}


def measure(directory: Path) -> Iterator[Figure]:
    """Commands over a small store, and the imports that they or the measuring processes wait for."""
    home = directory / "small"
    shutil.copytree(ROOT / "tests" / "storage" / "golden", home)
    actions = {
        "`python -c pass`": python_command("-c", "pass", home=home),
        "`slimline --help`": slimline_command("--help", home=home),
        "`slimline table`": slimline_command("table", home=home),
        "`slimline regressions`": slimline_command("regressions", home=home),
        '`slimline sql "from runs"`': slimline_command("sql", "from runs", home=home),
        "`slimline artifacts list`": slimline_command("artifacts", "list", home=home),
    }
    for what, module in IMPORTS.items():
        actions[f"import {what}: `{module}`"] = python_command("-P", "-c", f"import {module}", home=home)
    yield from time_in_turns(actions, TIMES)
