"""What a command says where its surroundings are not what it needs: one line, with the setting and what to do."""

import os
import shutil
from pathlib import Path

import pytest

from tests.command import ROOT, run_command

pytestmark = pytest.mark.e2e

GOLDEN = ROOT / "tests" / "storage" / "golden"
NO_CREDENTIALS = {
    **{name: "" for name in os.environ if name.startswith("AWS_")},
    **{"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "", "AWS_SHARED_CREDENTIALS_FILE": ""},
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return shutil.copytree(GOLDEN, tmp_path / "home")


def only_line(home: Path, *command: str, status: int = 2, **settings: str) -> str:
    """The one line that a command says when it refuses."""
    refused = run_command(*command, home=home, check=False, **settings)
    assert (refused.returncode, refused.stdout) == (status, ""), refused.stderr
    (line,) = refused.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("url", "word"), [("gs://bucket/x", "gcsfs"), ("foo://bucket/x", "foo"), ("s3://b/x", "s3://")]
)
def test_a_store_that_cannot_be_reached_is_named(url: str, word: str, home: Path, tmp_path: Path) -> None:
    line = only_line(home, "table", SLIMLINE_STORE=url, XDG_CACHE_HOME=str(tmp_path), **NO_CREDENTIALS)
    assert url in line and word in line


def test_a_table_can_be_printed_in_any_encoding(home: Path) -> None:
    lines = run_command("table", home=home, PYTHONIOENCODING="latin-1").stdout.splitlines()
    assert lines[0].startswith("+---") and lines[1].startswith("| ")
    assert "".join(lines).isascii()


def test_a_lock_directory_without_files_is_named(home: Path) -> None:
    line = only_line(home, "doctor", "--peaks", status=1, SLIMLINE_LOCK_DIR="/proc")
    assert "/proc" in line and "SLIMLINE_LOCK_DIR" in line


def test_where_an_error_came_from_is_shown_where_asked(home: Path, tmp_path: Path) -> None:
    settings = NO_CREDENTIALS | {"SLIMLINE_STORE": "s3://b/x", "XDG_CACHE_HOME": str(tmp_path)}
    asked = run_command("table", "--debug", home=home, check=False, **settings)
    assert asked.returncode == 1 and "Traceback" in asked.stderr


def test_a_damaged_file_is_said_once_and_the_rest_is_shown(home: Path, tmp_path: Path) -> None:
    damaged = next((home / "metrics" / "predictions").rglob("*.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    made = run_command("report", "--out", str(tmp_path / "report.html"), home=home)
    (line,) = made.stderr.splitlines()
    assert str(damaged) in line and (tmp_path / "report.html").exists()
    refused = run_command("metrics", "verify", home=home, check=False)
    assert refused.returncode == 1 and damaged.name in refused.stderr
