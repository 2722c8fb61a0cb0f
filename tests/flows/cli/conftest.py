"""The command in a process of its own, with a home of its own."""

from pathlib import Path

import pytest

from tests.command import run_command
from tests.flows.cli.answer import Answer, Slimline


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def slimline(home: Path, monkeypatch: pytest.MonkeyPatch) -> Slimline:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")

    def run(*arguments: str | Path) -> Answer:
        finished = run_command(*map(str, arguments), home=home, check=False)
        lines = finished.stderr.splitlines(keepends=True)
        imports = [line for line in lines if line.startswith("import time:")]
        packages = {line.rpartition("|")[2].strip().partition(".")[0] for line in imports}
        messages = "".join(line for line in lines if not line.startswith("import time:"))
        return Answer(finished.returncode, finished.stdout, messages, packages)

    return run
