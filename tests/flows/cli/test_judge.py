"""`slimline judge`: docs/judge.md tells the truth, exit statuses, and what is refused."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from slimline.flows.cli.__main__ import app
from slimline.tasks.regression.series_csv import KNOWN
from tests.command import ROOT
from tests.flows.cli.answer import HEAVY, Slimline

GUIDE = (ROOT / "docs" / "judge.md").read_text("utf8")
BLOCKS = re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("slimline ")]
EXAMPLE = ROOT / "docs" / "examples" / "series.csv"
FULL = Path("/dev/full")
HEAD = "time,series,value\n"

Judge = Callable[..., Result]


def days(*values: float, series: str = "a") -> str:
    return "".join(f"2026-10-{day:02}T03:00:00Z,{series},{value}\n" for day, value in enumerate(values, 1))


STEADY = [100, 101, 99, 100.5, 99.5, 100, 101, 99, 100, 100.5, 99, 101]


@pytest.fixture
def judge() -> Judge:
    def run(*arguments: str, text: str | bytes = "") -> Result:
        return CliRunner().invoke(app, ["judge", *arguments], input=text)

    return run


@pytest.mark.e2e
def test_the_command_is_light_and_leaves_nothing_behind(slimline: Slimline, home: Path) -> None:
    answer = slimline("judge", EXAMPLE)
    assert (answer.status, answer.err) == (1, "")
    summary, alarm, *_ = answer.out.splitlines()
    assert "1 regression" in summary and alarm.startswith("regression of parse since 2026-11-14T03:00:00+01:00: +1")
    assert "commit 91b7d4a -> f3a9c55" in alarm
    assert not answer.imported & HEAVY and not home.exists()


@pytest.mark.e2e
def test_help_has_examples(slimline: Slimline) -> None:
    answer = slimline("judge", "--help")
    assert answer.status == 0 and ": slimline judge times.csv" in answer.out
    assert not answer.imported & HEAVY


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_guide_run(judge: Judge, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words, _, source = command.partition(" < ")
    _, name, *arguments = shlex.split(words)
    answer = judge(*arguments, text=Path(source).read_bytes() if source else "")
    assert name == "judge" and answer.exit_code in (0, 1) and answer.stdout


def test_every_column_is_in_the_guide_and_its_example_is_what_is_printed(judge: Judge) -> None:
    assert all(f"| `{name}` |" in GUIDE for name in KNOWN)
    (printed,) = re.findall(r"```\n(\d regression.*?)```", GUIDE, re.DOTALL)
    assert judge(str(EXAMPLE)).stdout == printed
    assert (ROOT / "docs/data/judge.md").read_text("utf8") in GUIDE


def test_statuses(judge: Judge) -> None:
    steady = HEAD + days(*STEADY)
    assert judge("-", text=steady).exit_code == 0
    slower = HEAD + days(*STEADY, 120, 121, 119)
    assert judge("-", text=slower).exit_code == 1
    assert judge("-", "--better", "higher", text=slower).exit_code == 0
    assert judge("-", "--relevant", "40", text=slower).exit_code == 0
    assert judge("-", "--lasting", "4", text=slower).exit_code == 0
    after = slower + "2026-10-20T03:00:00Z,a,120\n"
    assert [judge("-", *options, text=after).exit_code for options in ((), ("--open",))] == [0, 1]
    assert "open regression of a: +2" in judge("-", text=after).stdout


@pytest.mark.e2e
@pytest.mark.skipif(not FULL.exists(), reason="/dev/full is Linux's")
def test_output_that_cannot_be_written_is_no_regression() -> None:
    steady = (HEAD + days(*STEADY)).encode()
    with FULL.open("wb") as full:
        run = subprocess.run(
            [sys.executable, "-m", "slimline.flows.cli", "judge", "-"],
            input=steady,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert run.returncode not in (0, 1) and b"No space left" in run.stderr


def test_as_json(judge: Judge) -> None:
    answer = judge("-", "--json", text=HEAD + days(*STEADY, 120, 121, 119) + days(1, 2, series="b"))
    slow, new = json.loads(answer.stdout)["verdicts"]
    assert (slow["series"], slow["verdict"], slow["since"]) == ("a", "regression", "2026-10-13T03:00:00Z")
    assert slow["ratio"] == pytest.approx(1.2, rel=0.03) and slow["lo"] < slow["ratio"] < slow["hi"]
    assert (new["series"], new["verdict"], new["reference"]) == ("b", "new", None)


def test_names_of_columns(judge: Judge) -> None:
    text = (HEAD + days(*STEADY)).replace(HEAD, "date;bench;ms\n").replace(",", ";")
    answer = judge("-", "--column", "time=date", "--column", "series=bench", "--column", "value=ms", text=text)
    assert answer.exit_code == 0 and answer.stdout.startswith("1 ok")


@pytest.mark.parametrize(
    ("arguments", "text", "named"),
    [
        (["-"], "", ["line 1", "time"]),
        (["-"], HEAD + days(1, float("nan")), ["line 3", "value", "'nan'"]),
        (["-", "--column", "colour=x"], HEAD, ["--column", "colour=x", "rerun"]),
        (["-", "--column", "time"], HEAD, ["--column", "time="]),
        (["-", "--relevant", "0"], HEAD, ["--relevant", "0"]),
        (["-", "--relevant", "nan"], HEAD, ["--relevant", "nan"]),
        (["nowhere.csv"], "", ["nowhere.csv"]),
        (["."], "", ["."]),
    ],
)
def test_bad_input_is_refused_in_one_line(judge: Judge, arguments: list[str], text: str, named: list[str]) -> None:
    answer = judge(*arguments, text=text)
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert answer.stderr.startswith("error: ") and answer.stderr.count("\n") == 1
    assert all(word in answer.stderr for word in named)


def test_names_that_a_terminal_would_obey_are_cleaned(judge: Judge) -> None:
    answer = judge("-", text=f'{HEAD}2026-10-01,"a\x1b[31m\nb",1\n')
    assert answer.exit_code == 0 and "\x1b" not in answer.stdout
