"""A state directory on a disk that is read-only or full: one line says so, at once; and what was there before stays."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import ROOT, environment
from tests.system import require

pytestmark = pytest.mark.e2e

SLIMLINE = f"{sys.executable} -m slimline.flows.cli"
GOLDEN = ROOT / "tests" / "storage" / "golden"


def on_disk(directory: Path, options: str, script: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script that sees a small disk of its own at `directory`, which ends with it."""
    directory.mkdir()
    unshare = [require("unshare"), "--user", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        assert os.environ.get("CI") != "true", "this user may not mount a disk in a namespace"
        pytest.skip("this user may not mount a disk in a namespace")
    mounted = f'mount -t tmpfs -o "{options}" tmpfs "{directory}" && cd "{ROOT}" && {script}'
    seen = environment(directory) | settings
    return subprocess.run([*unshare, "sh", "-c", mounted], env=seen, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", ["run smoke", "nightly smoke", "serve", "doctor --peaks"])
def test_a_read_only_one_is_named(command: str, tmp_path: Path) -> None:
    refused = on_disk(tmp_path / "disk", "size=1m,ro", f"{SLIMLINE} {command}")
    assert (refused.returncode, refused.stdout) == (2, "")
    (line,) = refused.stderr.splitlines()
    assert str(tmp_path / "disk") in line and "Read-only file system" in line


@pytest.mark.parametrize("command", ["run smoke", "nightly smoke", "serve"])
def test_a_full_one_is_named_with_what_is_needed(command: str, tmp_path: Path) -> None:
    refused = on_disk(tmp_path / "disk", "size=5m", f"{SLIMLINE} {command}")
    assert (refused.returncode, refused.stdout) == (2, "")
    (line,) = refused.stderr.splitlines()
    assert f"SLIMLINE_HOME: {tmp_path / 'disk'}" in line and "200 MB" in line


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    refused = on_disk(tmp_path / "disk", "size=5m", f"SLIMLINE_HOME={__file__} {SLIMLINE} run smoke")
    assert refused.returncode == 2 and f"SLIMLINE_HOME: {__file__}" in refused.stderr


@pytest.mark.parametrize(
    "command",
    [
        "report --out {}/old",
        "sql 'from range(100000)' --out {}/old --format csv",
        "sql 'select random() from range(100000)' --out {}/old --format parquet",
        "sql --export duckdb {}/old",
    ],
)
def test_a_full_disk_does_not_eat_the_file_before(command: str, tmp_path: Path) -> None:
    home, disk = shutil.copytree(GOLDEN, tmp_path / "home"), tmp_path / "disk"
    line = f"{SLIMLINE} {command.format(disk)} >&2; echo $?; cat {disk}/old; ls -A {disk}"
    tried = on_disk(disk, "size=64k", f"echo before > {disk}/old; {line}", SLIMLINE_HOME=str(home))
    assert tried.stdout.split() == ["2", "before", "old"], tried.stderr
    assert len(tried.stderr.splitlines()) == 1 and str(disk) in tried.stderr


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("table", 0),
        ("recommend --json", 1),  # nothing, as it is of before speeds were measured at equal work
        ("artifacts list", 0),
        ("artifacts verify", 0),
        ("metrics verify", 0),
    ],
)
def test_a_store_on_a_read_only_disk_is_read(command: str, status: int, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    fill = f"cp -r {GOLDEN}/. {disk} && mount -o remount,ro {disk}"
    answered = on_disk(disk, "size=20m", f"{fill} && {SLIMLINE} {command}")
    assert answered.returncode == status, answered.stderr
    assert answered.stdout and not answered.stderr
