"""The README tells the truth: every command in it runs."""

import json
import re
import shlex
import sysconfig
from pathlib import Path

import pytest

from slimline.flows.config.study import study_names
from slimline.storage.artifacts.store import ArtifactStore
from tests.command import FIRST_RUN, ROOT, SECOND_RUN, run_command

pytestmark = [pytest.mark.e2e, pytest.mark.long]

README = (ROOT / "README.md").read_text("utf8")
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("slimline ")
]
# By the fixture `first_run`, test_run.py, test_serve.py and test_dashboard.py, as servers run until they are stopped;
# and by test_compression.py, on a few lines.
RUN_ELSEWHERE = {FIRST_RUN, SECOND_RUN, "slimline serve", "slimline dashboard", "slimline run compression"}


@pytest.fixture
def files(smoke_home: Path, tmp_path: Path) -> dict[str, str]:
    """What the README's commands name, and where it is here."""
    store = ArtifactStore(smoke_home / "artifacts")
    checkpoint = next(ref for ref in store.list() if store.provenance(ref).step["step"] == "base")
    (study,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    study = study.replace("/path/to/a/gpt2/checkpoint", str(store.path(checkpoint)))
    study = study.replace("/path/to/your/code, /path/to/more", sysconfig.get_paths()["stdlib"])
    (tmp_path / "my-study.yaml").write_text(study, "utf8")
    (tmp_path / "answers.json").write_text("".join(json.dumps({"gt": f"x = {n}"}) + "\n" for n in range(3)), "utf8")
    (tmp_path / "predictions.txt").write_text("x = 0\nx = 1\ny = 2\n", "utf8")
    rows = [f"2026-11-{day:02},parse,{40 + day % 3}\n" for day in range(1, 21)]
    (tmp_path / "times.csv").write_text("time,series,value\n" + "".join(rows), "utf8")
    names = ("times.csv", "my-study.yaml", "answers.json", "predictions.txt", "report.html", "slimline.duckdb")
    return {name: str(tmp_path / name) for name in names}


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in RUN_ELSEWHERE])
def test_command_runs(command: str, files: dict[str, str], smoke_home: Path) -> None:
    words = [files.get(word, word) for word in shlex.split(command, comments=True)[1:]]
    assert run_command(*words, home=smoke_home).stdout


def test_the_runs_of_other_tests_are_in_it() -> None:
    assert set(COMMANDS) >= RUN_ELSEWHERE


def test_every_study_is_described() -> None:
    assert all(f"`{name}`" in README for name in study_names())


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf8"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE)) <= targets
