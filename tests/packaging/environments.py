"""Virtual environments with some of this environment's distributions and slimline's wheel, made without a network."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement

from tests.command import ROOT

PARTS = ("dashboards", "flows", "storage", "tasks")
NOT_SOURCE = shutil.ignore_patterns("__pycache__", ".staging")
_HERE = sysconfig.get_path("purelib")


def build_wheel(directory: Path) -> Path:
    """The wheel of the checkout, built from a copy, because a build leaves files in its source."""
    source = directory / "source"
    for part in PARTS:
        shutil.copytree(ROOT / part, source / part, ignore=NOT_SOURCE)
    for name in ("LICENSE", "NOTICE", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, source)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(directory), str(source))
    (wheel,) = directory.glob("*.whl")
    return wheel


def make_environment(directory: Path, installed: Iterable[Distribution], wheel: Path) -> Path:
    """An environment of links to distributions of this one, with the wheel installed in it.

    Returns:
        The folder of its commands.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
    (site_packages,) = directory.glob("lib/python*/site-packages")
    for top in {path.parts[0] for each in installed for path in each.files or ()} - {"..", "__pycache__"}:
        (site_packages / top).symlink_to(Path(_HERE, top))
    _pip("--python", str(directory / "bin" / "python"), "install", "--no-deps", "--no-index", str(wheel))
    return directory / "bin"


def distributions_without(*names: str) -> list[Distribution]:
    """Every distribution of this environment but these and slimline."""
    return [each for each in distributions(path=[_HERE]) if each.name not in {*names, "slimline"}]


def core_distributions() -> list[Distribution]:
    """What `pip install slimline` installs beside slimline: its dependencies without any extra, and theirs."""
    found: dict[str, Distribution] = {}
    queue = [Requirement(each) for each in distribution("slimline").requires or ()]
    extras = {""}
    while queue:
        requirement = queue.pop()
        key = str(requirement)
        is_wanted = requirement.marker is None or any(requirement.marker.evaluate({"extra": each}) for each in extras)
        if key not in found and is_wanted:
            found[key] = distribution(requirement.name)
            extras |= requirement.extras
            queue += [Requirement(each) for each in found[key].requires or ()]
    return list(found.values())


def _pip(*words: str) -> None:
    quiet = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    finished = subprocess.run(
        [sys.executable, "-m", "pip", *words], capture_output=True, text=True, env=quiet, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
