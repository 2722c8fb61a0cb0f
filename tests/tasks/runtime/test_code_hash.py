"""What counts as a change of a step's code."""

import os
from pathlib import Path

import pytest

from slimline.tasks.runtime.code_hash import code_hash, step_libraries
from tests.command import run_program

PROGRAM = Path(__file__).parent / "programs" / "print_code_hashes.py"
PRUNING = "slimline/tasks/pruning/group_lasso.py"
ENTRIES = ("slimline.tasks.pruning.group_lasso", "slimline.tasks.export.onnx_export", "slimline.tasks.data.slices")


def code_hashes(source: Path) -> list[str]:
    """Of a copy's pruning, export and data."""
    return [line.split()[0] for line in run_program(PROGRAM, *ENTRIES, PYTHONPATH=str(source)).stdout.splitlines()]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf8")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("from __future__", "# a comment\nfrom __future__"),
        ('"""', '"""Another docstring. '),
        ("\n\n\n", "\n\n\n\n\n"),
    ],
)
def test_comments_docstrings_and_formatting_do_not_count(source_copy: Path, old: str, new: str) -> None:
    before = code_hashes(source_copy)
    edit(source_copy / PRUNING, old, new)
    assert code_hashes(source_copy) == before


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("tasks/pruning/group_lasso.py", [True, False, False]),
        ("tasks/data/packing.py", [True, False, False]),
        ("tasks/data/__init__.py", [True, False, True]),
        ("tasks/models/checkpoint.py", [True, True, False]),
        ("tasks/specs/base.py", [False, False, False]),
        ("storage/fs.py", [False, False, False]),
        ("storage/artifacts/store.py", [False, False, False]),
    ],
)
def test_an_edit_counts_for_the_steps_that_import_the_file(source_copy: Path, file: str, changed: list[bool]) -> None:
    before = code_hashes(source_copy)
    with (source_copy / "slimline" / file).open("a") as code:
        code.write("\n_EDITED = 1\n")
    after = code_hashes(source_copy)
    assert [old != new for old, new in zip(before, after, strict=True)] == changed


def test_an_edit_of_a_data_file_counts_for_the_steps_whose_code_reads_it(source_copy: Path) -> None:
    before = code_hashes(source_copy)
    edit(source_copy / "slimline/tasks/data/literals.json", "utf-8", "utf-9")
    after = code_hashes(source_copy)
    assert [old != new for old, new in zip(before, after, strict=True)] == [True, False, True]


def test_a_data_file_that_no_code_reads_does_not_count(source_copy: Path) -> None:
    before = code_hashes(source_copy)
    (source_copy / "slimline/tasks/data/notes.txt").write_text("nobody reads this")
    assert code_hashes(source_copy) == before


def test_libraries_are_named_with_their_versions() -> None:
    versions = step_libraries("slimline.tasks.pruning.group_lasso")
    assert {"torch", "transformers", "tokenizers", "numpy"} <= versions.keys()
    assert not {"json", "slimline"} & versions.keys()


def test_what_has_no_source_is_refused_by_name() -> None:
    for name in ("slimline.tasks.nothing", "no_such_module", "sys"):
        with pytest.raises(ModuleNotFoundError, match=name):
            code_hash(name)


# --------------------------------------------------------------------------------------------------- a user's own code

STEPS = """\"\"\"Steps of my own.\"\"\"
from pathlib import Path
import helper
from tools.words import words
WORDS = Path(__file__).with_name("words.txt")
MORE = Path(__file__).with_name("more words.txt")
LONG = "{long}"
""".format(long="a sentence without a comma " * 20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder: a module, what it imports and reads, and what it has nothing to do with."""
    files = {
        "my_steps.py": STEPS,
        "helper.py": "import deeper\n",
        "deeper.py": "x = 1\n",
        "words.txt": "a b c\n",
        "more words.txt": "d e f\n",
        "tools/words.py": "from . import letters\nfrom .more.signs import signs\nwords = 1\n",  # without an __init__.py
        "tools/letters.py": "x = 1\n",
        "tools/more/__init__.py": "x = 1\n",
        "tools/more/signs.py": "signs = 1\n",
        "other.py": "x = 1\n",
        "my-study.yaml": "x: 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def own_hash(folder: Path) -> str:
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return run_program(PROGRAM, "my_steps", PYTHONPATH=path).stdout


@pytest.mark.parametrize(
    "file",
    [
        *("my_steps.py", "helper.py", "deeper.py", "words.txt", "more words.txt"),
        *("tools/words.py", "tools/letters.py", "tools/more/signs.py"),
    ],
)
def test_an_edit_counts_of_a_users_module_and_of_what_it_imports_or_reads_beside_it(folder: Path, file: str) -> None:
    before = own_hash(folder)
    with (folder / file).open("a") as code:
        code.write("\nedited = 1\n")
    assert own_hash(folder) != before


@pytest.mark.parametrize("file", ["other.py", "my-study.yaml"])
def test_what_a_users_module_does_not_name_does_not_count(folder: Path, file: str) -> None:
    before = own_hash(folder)
    with (folder / file).open("a") as code:
        code.write("\nedited = 1\n")
    assert own_hash(folder) == before


def test_a_users_code_has_the_same_hash_in_another_folder(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other") / "folder"
    folder.rename(other)
    before = own_hash(other)
    other.rename(folder)
    assert own_hash(folder) == before


def test_libraries_have_their_versions_where_their_import_name_is_another(folder: Path) -> None:
    with (folder / "deeper.py").open("a") as code:
        code.write("import yaml, helper, json, slimline.tasks.specs\n")
    assert own_hash(folder).split()[1:] == ["yaml"]
