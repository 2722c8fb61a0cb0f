"""Where ITREX runs: what is refused as an environment of it, how one is built, and that results depend on it."""

import platform
import shutil
import sys
from pathlib import Path

import pytest

from slimline.storage.artifacts.store import ArtifactRef
from slimline.tasks import build
from slimline.tasks.itrex import environment
from slimline.tasks.itrex.environment import ItrexError, build_environment, installed_versions, python_of_environment
from slimline.tasks.specs import ItrexPrune, ItrexQuantize

BASE, SLICE = (ArtifactRef(kind=kind, digest="0" * 64) for kind in ("model", "slice"))


def packages(directory: Path) -> Path:
    return directory / "lib/python3.11/site-packages"


def replace_numpy(directory: Path, version: str) -> None:
    (packages(directory) / "numpy-1.26.4.dist-info").rename(packages(directory) / f"numpy-{version}.dist-info")


def test_a_whole_environment_has_an_interpreter(imitation: Path) -> None:
    assert python_of_environment() == imitation / "bin" / "python"
    replace = packages(imitation) / "torch-2.13.0.dist-info"
    replace.rename(replace.with_name("torch-2.13.0+cpu.dist-info"))
    assert python_of_environment().is_file()


def test_names_are_normalised_as_pip_does(imitation: Path) -> None:
    (packages(imitation) / "Some_Package.Of-1.0.post1.dist-info").mkdir()
    found = installed_versions(imitation)
    assert found["some-package-of"] == "1.0.post1"
    assert found.items() > environment.pinned_versions().items()
    assert installed_versions(imitation / "lib") == {}


DAMAGES = {
    "missing": (shutil.rmtree, ["is missing"]),
    "half-built": (lambda at: (at / "complete").unlink(), ["is half-built"]),
    "another version": (lambda at: replace_numpy(at, "2.4.1"), ["numpy is 2.4.1", "pinned is 1.26.4"]),
    "one package less": (lambda at: (packages(at) / "six-1.17.0.dist-info").rmdir(), ["six is missing", "1.17.0"]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_environment_is_refused(imitation: Path, damage: str) -> None:
    harm, words = DAMAGES[damage]
    harm(imitation)
    with pytest.raises(ItrexError) as refused:
        python_of_environment()
    assert all(word in str(refused.value) for word in [*words, str(imitation), "make itrex", "itrex.environment"])


@pytest.mark.parametrize("spec", [ItrexPrune(), ItrexQuantize()], ids=lambda spec: spec.step)
def test_a_result_depends_on_the_environment(imitation: Path, spec: ItrexPrune | ItrexQuantize) -> None:
    keys = [build.step_key(spec, (BASE, SLICE))]
    replace_numpy(imitation, "1.26.5")
    keys.append(build.step_key(spec, (BASE, SLICE)))
    shutil.rmtree(imitation)
    keys.append(build.step_key(spec, (BASE, SLICE)))
    assert len(set(keys)) == 3
    assert environment.environment_digest() == "absent"


# ------------------------------------------------------------------------------------------------------------- building


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What would be run, on a system that ITREX is published for, without a network."""
    ran: list[tuple[str, ...]] = []
    here = (platform.system(), platform.machine(), sys.version_info[:2])
    monkeypatch.setattr(environment, "_PUBLISHED_FOR", here)
    monkeypatch.setattr(environment, "_TORCH_CPU", "http://127.0.0.1:1")

    def run(what: str, *command: str) -> None:
        assert not (environment.ENVIRONMENT / "complete").exists()
        environment.ENVIRONMENT.mkdir(exist_ok=True)
        ran.append(command)

    monkeypatch.setattr(environment, "_run", run)
    return ran


def test_a_whole_environment_is_not_built_again(
    imitation: Path, commands: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    build_environment()
    assert commands == []
    assert "whole" in capsys.readouterr().out


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_other_is_built_anew(imitation: Path, commands: list[tuple[str, ...]], damage: str) -> None:
    DAMAGES[damage][0](imitation)
    build_environment()
    assert [path.name for path in imitation.iterdir()] == ["complete"]  # nothing of the old one is left
    virtual, torch, others = commands
    assert virtual == (sys.executable, "-m", "venv", str(imitation))
    assert "torch==2.13.0" in torch and "--index-url" not in torch
    assert others[-2:] == ("--requirement", str(environment.REQUIREMENTS))


def test_a_failed_build_is_not_complete(
    imitation: Path, commands: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(imitation)
    monkeypatch.setattr(environment, "REQUIREMENTS", environment.REQUIREMENTS.with_name("worker.py"))
    with pytest.raises(KeyError, match="torch"):
        build_environment()
    with pytest.raises(ItrexError, match="half-built"):
        python_of_environment()


def test_a_python_that_it_is_not_published_for_is_named(
    commands: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_PUBLISHED_FOR", ("Linux", "x86_64", (3, 9)))
    with pytest.raises(ItrexError, match=rf"Python 3\.9, this is .*{sys.version_info.major}\.{sys.version_info.minor}"):
        build_environment()
    assert commands == []
