"""On the latest Python that is allowed, the wheel reads data and stores as on 3.11."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import ROOT
from tests.system import give_up

pytestmark = [pytest.mark.e2e, pytest.mark.long]

LATEST = "3.13"
TESTS = ("tests/tasks/data", "tests/storage")
TOOLS = ("filelock", "hypothesis", "pytest")
OPTIONS = (
    *("-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", "-m", "not e2e and not long"),
    # These need what extras install.
    *("--ignore", "tests/tasks/data/test_tokenizer.py", "--ignore", "tests/storage/test_s3_faults.py"),
    *("--deselect", "tests/tasks/data/test_corpus.py::test_the_hubs_schema"),
    *("--deselect", "tests/tasks/data/test_corpus.py::test_a_column_of_something_else_is_refused"),
)


def interpreters(version: str) -> Iterator[Path]:
    """Where a Python may be: on the path, or among those of pyenv."""
    on_path = shutil.which(f"python{version}")
    yield from [Path(on_path)] if on_path else []
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python"))


def find_python(version: str) -> Path:
    """The first one that runs; where there is none, the test is given up."""
    found = next(filter(runs, interpreters(version)), None)
    if found is None:
        give_up(f"Python {version} is not installed")
    return found


def runs(python: Path) -> bool:
    """Whether it does: pyenv's own commands refuse where their version is not chosen."""
    return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0


@pytest.fixture
def python(wheel: Path, tmp_path: Path) -> Path:
    """That Python with the wheel at the lock's versions, and with what the tests need."""
    subprocess.run([find_python(LATEST), "-m", "venv", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--constraint", ROOT / "requirements.lock"]
    subprocess.run([*install, wheel, *TOOLS], check=True)
    return python


def test_data_and_storage_are_as_on_3_11(python: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    shutil.copytree(ROOT / "tests", here / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", here)
    command = [python, "-P", "-m", "pytest", *OPTIONS, *TESTS]
    settings = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    finished = subprocess.run(command, cwd=here, env=settings, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
