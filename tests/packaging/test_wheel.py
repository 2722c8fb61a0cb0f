"""What is in the wheel, and a run of it in a directory whose files have the names of modules."""

import csv
import io
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.command import ROOT, environment
from tests.packaging.environments import NOT_SOURCE, PARTS, distributions_without, make_environment

pytestmark = pytest.mark.e2e

PROGRAMS = Path(__file__).parent / "programs"
TRAPS = ("tasks.py", "storage.py", "dashboards.py", "flows/__init__.py", "slimline/__init__.py", "json.py", "random.py")
# Of the standard library. Packages are held out by name: these are in the training, the dev and the test split.
CODE = ("bisect.py", "heapq.py", "textwrap.py", "csv.py", "tty.py", "ipaddress.py", "inspect.py", "smtplib.py")
STUDY = """
base: {source: bundled}
data: {origin: {source: python-trees, roots: [code]}, train_files: 4, dev_files: 1, samples: 2}
variants:
  original: {label: baseline, recipe: [{step: engine, name: torch}]}
  int8: {recipe: [{step: export-onnx}, {step: onnx-int8}, {step: engine, name: onnxruntime}]}
  ctranslate2: {recipe: [{step: export-ctranslate2}, {step: engine, name: ctranslate2}]}
measuring: {rounds: 1, speed_samples: 1, pair_seconds: 0, warmup_samples: 1, decoding: {max_new_tokens: 5}}
"""


def test_the_wheel_holds_every_file_of_slimline_and_nothing_else(wheel: Path, tmp_path: Path) -> None:
    for part in PARTS:
        shutil.copytree(ROOT / part, tmp_path / "slimline" / part, ignore=NOT_SOURCE)
    expected = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == expected
    assert {f"slimline/{part}/py.typed" for part in PARTS} < names


def test_the_wheel_has_its_licences(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    texts = {Path(name).name: archive.read(name).decode() for name in archive.namelist() if "/licenses/" in name}
    assert texts == {name: (ROOT / name).read_text("utf8") for name in ("LICENSE", "NOTICE")}
    (metadata,) = [archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA")]
    assert "License-Expression: Apache-2.0" in metadata


@pytest.fixture(scope="module")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment with everything but the engine CTranslate2."""
    return make_environment(tmp_path_factory.mktemp("installed"), distributions_without("ctranslate2"), wheel)


def trap_directory(directory: Path) -> Path:
    """A directory of files with the names of modules, none of which may be imported."""
    for name in TRAPS:
        (directory / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROGRAMS / "trap.py", directory / name)
    return directory


@pytest.mark.long
def test_a_run_in_a_directory_of_traps(commands: Path, tmp_path: Path) -> None:
    here = trap_directory(tmp_path)
    (here / "code").mkdir()
    for name in CODE:
        shutil.copy(Path(json.__file__).parents[1] / name, here / "code")
    # A recipe may name a function of a module beside its study, so the study is not beside the traps.
    (here / "studies").mkdir()
    (here / "studies" / "study.yaml").write_text(STUDY, "utf8")

    def slimline(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(commands / "slimline"), *words]
        return subprocess.run(
            command, cwd=here, env=environment(here / "home"), capture_output=True, text=True, check=False
        )

    ran = slimline("run", "studies/study.yaml", "--json")
    assert ran.stdout, ran.stderr
    rows = {row["variant"]: row for row in json.loads(ran.stdout)}
    assert ran.returncode == 1
    assert "slimline[ctranslate2]" in rows["ctranslate2"]["error"]
    assert "slimline[ctranslate2]" in ran.stderr
    assert rows["int8"]["samples_per_s"] > 0
    answer = slimline("sql", "select count(*) as n from rounds", "--format", "csv")
    assert list(csv.DictReader(io.StringIO(answer.stdout))) == [{"n": "3"}], answer.stderr
    assert not list(here.rglob("*.imported"))


def test_what_runs_is_the_wheel(commands: Path) -> None:
    found = subprocess.run(
        [str(commands / "python"), "-P", str(PROGRAMS / "print_origin.py")], capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()).is_relative_to(commands.parent / "lib")
