"""The Python environment of ITREX, intel-extension-for-transformers, beside the packages of slimline's own.

    python -m slimline.tasks.itrex.environment

builds it, from requirements.txt. It is a separate one because ITREX's last release needs numpy 1, transformers 4 and
neural-compressor 2.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from urllib.request import urlopen

ENVIRONMENT = Path(sys.prefix) / "itrex"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
BUILD = "run `make itrex`, or python -m slimline.tasks.itrex.environment"

_MARKER = "complete"
_LIBRARIES = ("intel-extension-for-transformers", "neural-compressor", "numpy", "torch", "transformers")
_PINNED = re.compile(r"(?P<name>[\w.-]+)==(?P<version>\S+)")
# The only wheel of intel-extension-for-transformers 1.4.2 that is one for Linux.
_PUBLISHED_FOR = ("Linux", "x86_64", (3, 11))
# torch's default build for Linux carries CUDA (3 GB).
_TORCH_CPU = "https://download.pytorch.org/whl/cpu"


class ItrexError(RuntimeError):
    """ITREX cannot run here, or failed; the message says what to do."""


def installed_versions(environment: Path) -> dict[str, str]:
    """Version of every package of an environment, by its normalised name; empty if there is no environment."""
    found = (path.stem.rpartition("-") for path in environment.glob("lib/python*/site-packages/*.dist-info"))
    return {_normalised(name): version for name, _, version in sorted(found)}


def pinned_versions() -> dict[str, str]:
    """Version of every package of requirements.txt, by its normalised name."""
    return {_normalised(each["name"]): each["version"] for each in _PINNED.finditer(REQUIREMENTS.read_text("utf-8"))}


def library_versions() -> dict[str, str]:
    """Versions of ITREX and the libraries that decide what it computes, for the provenance of a result."""
    installed = installed_versions(ENVIRONMENT)
    return {name: installed[name] for name in _LIBRARIES if name in installed}


def environment_digest() -> str:
    """What the results of ITREX's steps depend on: SHA-256 of the versions installed; "absent" if there are none."""
    versions = installed_versions(ENVIRONMENT)
    return sha256(json.dumps(versions).encode()).hexdigest() if versions else "absent"


def python_of_environment() -> Path:
    """The environment's interpreter.

    Raises:
        ItrexError: there is no environment, it is half-built, or a package is not of the version that is pinned.
    """
    if found := problem():
        raise ItrexError(f"{found}; {BUILD}")
    return ENVIRONMENT / "bin" / "python"


def build_environment() -> None:
    """Build the environment if it is not there, whole, and of the pinned versions; print what is being done.

    Raises:
        ItrexError: ITREX is not published for this Python or system.
        subprocess.CalledProcessError: a package cannot be installed; pip has printed why.
    """
    here = (platform.system(), platform.machine(), sys.version_info[:2])
    if here != _PUBLISHED_FOR:
        raise ItrexError(f"ITREX is published for {_shown(*_PUBLISHED_FOR)}, this is {_shown(*here)}")
    if (found := problem()) is None:
        print(f"{ENVIRONMENT} is whole, and of the pinned versions")
        return
    print(f"{found}: it is built now, which takes minutes", flush=True)
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    _run("a virtual environment", sys.executable, "-m", "venv", str(ENVIRONMENT))
    _install("torch", *_torch_index(), "--no-deps", f"torch=={pinned_versions()['torch']}")
    _install("ITREX and what it needs", "--requirement", str(REQUIREMENTS))
    (ENVIRONMENT / _MARKER).touch()
    print(f"{ENVIRONMENT} is complete")


def problem() -> str | None:
    """What is wrong with the environment; None if nothing is."""
    if not ENVIRONMENT.is_dir():
        return f"the environment of ITREX, {ENVIRONMENT}, is missing"
    if not (ENVIRONMENT / _MARKER).is_file():
        return f"the environment of ITREX, {ENVIRONMENT}, is half-built"
    installed = installed_versions(ENVIRONMENT)
    for name, pinned in pinned_versions().items():
        found = installed.get(name, "missing")
        if found.partition("+")[0] != pinned:  # torch for the CPU is 2.13.0+cpu
            return f"the environment of ITREX, {ENVIRONMENT}: {name} is {found}, pinned is {pinned}"
    return None


def _normalised(name: str) -> str:
    """The name of a package as PEP 503 has it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _shown(system: str, machine: str, version: tuple[int, ...]) -> str:
    return f"{system} on {machine} with Python {'.'.join(map(str, version))}"


def _torch_index() -> list[str]:
    """Arguments for pip to get torch from its CPU index, if that can be reached."""
    try:
        urlopen(f"{_TORCH_CPU}/torch/", timeout=5).close()  # noqa: S310 - its scheme is https
    except OSError:  # no network, or no such page
        return []
    return ["--index-url", _TORCH_CPU]


def _install(what: str, *arguments: str) -> None:
    _run(what, str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-compile", *arguments)


def _run(what: str, *command: str) -> None:
    print(f"installing {what}", flush=True)
    subprocess.run(command, check=True)  # noqa: S603 - an interpreter of ours, and arguments of ours


if __name__ == "__main__":
    try:
        build_environment()
    except (ItrexError, subprocess.CalledProcessError) as error:
        sys.exit(str(error))
