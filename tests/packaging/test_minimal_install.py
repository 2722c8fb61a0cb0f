"""An install without extras reads a store that a full one has filled, and names the extra that it lacks."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.command import ROOT, environment, run_command
from tests.packaging.environments import core_distributions, make_environment

pytestmark = pytest.mark.e2e

PROGRAMS = Path(__file__).parent / "programs"
READING = (
    "table",
    "table --format latex",
    "sql from+versus_published+order+by+all",
    "recommend --json --host {host}",
    "regressions --all",
    "artifacts list",
    "lex {root}/tasks/specs/base.py",
    "judge {root}/docs/examples/series.csv",
)
WRITING = ("run smoke", "nightly smoke", "serve", "doctor --peaks")


@pytest.fixture(scope="module")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    installed = core_distributions()
    assert not {"torch", "prefect", "transformers", "onnxruntime", "s3fs"} & {each.name.lower() for each in installed}
    return make_environment(tmp_path_factory.mktemp("minimal"), installed, wheel)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "tests" / "storage" / "golden", tmp_path / "store")
    return tmp_path / "store"


def run_minimal(
    commands: Path, program: str, *words: str, store: str | Path, here: Path
) -> subprocess.CompletedProcess[str]:
    settings = environment(here / "home") | {"SLIMLINE_STORE": str(store)}
    command = [str(commands / program), *words]
    return subprocess.run(command, cwd=here, env=settings, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("line", READING)
def test_it_answers_as_a_full_install_does(line: str, commands: Path, store: Path, tmp_path: Path) -> None:
    words = [word.format(root=ROOT, host="local").replace("+", " ") for word in line.split()]
    minimal = run_minimal(commands, "slimline", *words, store=store, here=tmp_path)
    full = run_command(*words, home=tmp_path / "full", check=False, SLIMLINE_STORE=str(store))
    assert minimal.stdout == full.stdout
    assert (minimal.returncode, minimal.stderr) == (full.returncode, full.stderr)
    assert minimal.stdout or minimal.stderr


def test_it_writes_a_report(commands: Path, store: Path, tmp_path: Path) -> None:
    words = ("report", "--out", "report.html", "--figures", "figures")
    finished = run_minimal(commands, "slimline", *words, store=store, here=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "<svg" in (tmp_path / "report.html").read_text("utf8")
    assert list((tmp_path / "figures").glob("*.png"))


def test_it_opens_every_page_of_the_dashboard(commands: Path, store: Path, tmp_path: Path) -> None:
    program = str(PROGRAMS / "open_pages.py")
    finished = run_minimal(commands, "python", "-P", program, store=store, here=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == ["Results", "Trade-offs", "History", "Compare", "Lineage", "SQL"]


@pytest.mark.parametrize("line", WRITING)
def test_it_names_the_extra_that_runs(line: str, commands: Path, store: Path, tmp_path: Path) -> None:
    refused = run_minimal(commands, "slimline", *line.split(), store=store, here=tmp_path)
    assert refused.returncode == 2
    assert "pip install 'slimline[run]'" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["table", "artifacts list", "dashboard"])
def test_it_names_the_extra_of_a_store_in_s3(command: str, commands: Path, tmp_path: Path) -> None:
    refused = run_minimal(commands, "slimline", *command.split(), store="s3://bucket/slimline", here=tmp_path)
    assert refused.returncode == 2
    assert "pip install 'slimline[s3]'" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
