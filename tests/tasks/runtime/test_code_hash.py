"""What counts as a change of a step's code."""

import subprocess
import sys
from pathlib import Path

import pytest

PRUNING = "slimline/tasks/pruning/group_lasso.py"
ENTRIES = ("slimline.tasks.pruning.group_lasso", "slimline.tasks.export.onnx_export", "slimline.tasks.data.slices")


def fingerprints(source: Path) -> list[str]:
    program = (
        f"from slimline.tasks.runtime.code_hash import fingerprint\nfor entry in {ENTRIES}: print(fingerprint(entry))"
    )
    found = subprocess.run([sys.executable, "-c", program], cwd=source, capture_output=True, text=True, check=True)
    return found.stdout.split()


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
    before = fingerprints(source_copy)
    edit(source_copy / PRUNING, old, new)
    assert fingerprints(source_copy) == before


def test_an_edit_of_the_pruning_code_counts_for_pruning_only(source_copy: Path) -> None:
    before = fingerprints(source_copy)
    with (source_copy / PRUNING).open("a") as file:
        file.write("\n_EDITED = 1\n")
    after = fingerprints(source_copy)
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, True, True]


def test_an_edit_of_what_a_step_imports_counts(source_copy: Path) -> None:
    before = fingerprints(source_copy)
    with (source_copy / "slimline/tasks/data/packing.py").open("a") as file:
        file.write("\n_EDITED = 1\n")
    assert fingerprints(source_copy)[0] != before[0]


def test_libraries_are_named_with_their_versions() -> None:
    from slimline.tasks.runtime.code_hash import library_versions

    versions = library_versions("slimline.tasks.pruning.group_lasso")
    assert {"torch", "transformers", "tokenizers", "numpy"} <= versions.keys()
    assert "json" not in versions and "tasks" not in versions
