"""docs/reliability.md tells the truth: its commands run, and the tests that it names are there."""

import re
import shutil
from pathlib import Path

import pytest

from tests.command import ROOT, run_command

pytestmark = pytest.mark.e2e

GUIDE = (ROOT / "docs" / "reliability.md").read_text("utf8")
LINES = [line for block in re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL) for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("slimline ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_documented_command_runs(command: str, tmp_path: Path) -> None:
    home = shutil.copytree(ROOT / "tests" / "storage" / "golden", tmp_path / "home")
    words = command.replace("s3://bench/slimline", str(tmp_path / "other")).split()[1:]
    assert run_command(*words, home=home).stdout


def test_what_is_named_is_there() -> None:
    named = set(re.findall(r"tests/[\w/]+(?:\.py)?", GUIDE))
    assert len(COMMANDS) > 3 and len(named) > 9
    assert all((ROOT / name).exists() for name in named)


def test_pushed_artifacts_come_back(tmp_path: Path) -> None:
    golden = ROOT / "tests" / "storage" / "golden"
    assert "1 sent" in run_command("artifacts", "push", str(tmp_path / "other"), home=golden).stdout
    assert "1 there" in run_command("artifacts", "push", str(tmp_path / "other"), home=golden).stdout
    home = tmp_path / "home"
    assert "1 sent" in run_command("artifacts", "pull", str(tmp_path / "other"), home=home).stdout
    assert "1 of 1" in run_command("artifacts", "verify", home=home).stdout
