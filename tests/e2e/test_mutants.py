"""Ten thousand damaged files: each is refused by an error that slimline means, or is read as what it says.

SLIMLINE_MUTANTS=100000 pytest -m long tests/e2e/test_mutants.py tries more.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from slimline.flows.config.study import STUDIES, Study, StudyError, load_study
from slimline.storage.artifacts.manifest import (
    ArtifactRef,
    CorruptArtifactError,
    FileEntry,
    Manifest,
    Provenance,
    parse_manifest,
    parse_provenance,
    sealed,
)
from slimline.storage.metrics.store import MetricsStore
from slimline.tasks.data.tokenizer import changed_lines, read_tokenizer
from slimline.tasks.models.checkpoint import refuse_not_finite
from tests.mutants import mutants
from tests.storage.factories import measured

pytestmark = [pytest.mark.e2e, pytest.mark.long]

EACH = int(os.environ.get("SLIMLINE_MUTANTS", "10000")) // 10
SEED = 20261126


@pytest.fixture(scope="module")
def bpe_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of byte pairs."""
    from tests.tasks.bpe_models import write_bpe_model

    return write_bpe_model(tmp_path_factory.mktemp("model"))


@contextmanager
def in_time(seconds: int = 60) -> Iterator[None]:
    """Whatever takes longer fails: a file must not make a reader hang."""

    def late(*_: object) -> None:
        raise AssertionError(f"not read within {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def test_a_manifest_is_what_was_written_or_refused() -> None:
    entries = [FileEntry(path=f"f{n}", size=n, sha256=f"{n:064x}") for n in range(5)]
    manifest = Manifest(kind="model", files=tuple(entries))
    ref = manifest.ref()
    for content in mutants(manifest.canonical(), 2 * EACH, SEED):
        if content != manifest.canonical():
            with in_time(), pytest.raises(CorruptArtifactError):
                parse_manifest(ref, content)


def test_a_provenance_is_what_was_written_or_refused() -> None:
    ref = ArtifactRef(kind="model", digest="1" * 64)
    inputs = [ArtifactRef(kind="slice", digest="2" * 64)]
    made = Provenance(
        step={"step": "slim", "speedup": 2.0},
        inputs=inputs,
        versions={"torch": "2.13.0"},
        host="box",
        created=datetime.now(UTC),
        seconds=3.5,
        notes={"curve": [[0.1, 2.0]], "random_weights": False},
    )
    content = sealed(ref, made)
    assert parse_provenance(ref, content) == made
    for mutant in mutants(content, 2 * EACH, SEED):
        with in_time():
            try:
                found = parse_provenance(ref, mutant)
            except CorruptArtifactError:
                continue
            # Blanks and the order of keys are no part of it; without its seal it is one of an older version.
            assert found == made or b'"seal"' not in mutant


def test_a_file_of_metrics_is_what_was_written_or_left_out(tmp_path: Path) -> None:
    store = MetricsStore(tmp_path / "metrics")
    store.append([measured("a", "es", float(number)) for number in range(20)])
    store.append([measured("b", "es", 1.0)])
    path, other = sorted(
        (tmp_path / "metrics").glob("*/*/*.parquet"), key=lambda each: each.stat().st_size, reverse=True
    )
    content = path.read_bytes()
    for mutant in mutants(content, EACH, SEED):
        path.write_bytes(mutant)
        with in_time():
            report = store.inspect(again=True)
        whole = {name.rpartition("/")[2] for name in report.whole}
        assert whole == ({path.name, other.name} if mutant == content else {other.name})


def test_a_file_of_metrics_without_a_checksum_is_read_or_left_out(tmp_path: Path) -> None:
    store = MetricsStore(tmp_path / "metrics")
    store.append([measured("a", "es", float(number)) for number in range(20)])
    (path,) = (tmp_path / "metrics").glob("*/*/*.parquet")
    content = path.read_bytes()
    path.unlink()
    for number, mutant in enumerate(mutants(content, EACH, SEED)):
        path = path.with_name(f"{number:032x}.parquet")
        path.write_bytes(mutant)
        with in_time():
            if MetricsStore(tmp_path / "metrics").inspect(again=True).whole:
                values = store.query("SELECT value FROM measurements")["value"].to_pylist()
                assert all(value is None or np.isfinite(value) for value in values)
        path.unlink()
        (tmp_path / "metrics" / ".checked.jsonl").unlink()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_checkpoint_is_a_model_of_its_configuration_or_refused(
    name: str, bpe_model_dir: Path, tmp_path: Path
) -> None:
    from slimline.tasks.models.loading import import_gpt2

    directory = shutil.copytree(bpe_model_dir, tmp_path / "given")
    content = (directory / name).read_bytes()
    for mutant in mutants(content, EACH, SEED):
        (directory / name).write_bytes(mutant)
        with in_time():
            try:
                model, changes = import_gpt2(directory)
            except ValueError:
                continue
            if any("a part of the weights" in change for change in changes):
                continue
            weights = {key: weight.detach().numpy() for key, weight in model.state_dict().items()}
            stored = load_file(directory / "model.safetensors")
            assert all(np.array_equal(weights[key], values, equal_nan=True) for key, values in stored.items())
            if all(np.isfinite(values).all() for values in stored.values()):
                refuse_not_finite("model", weights.items())


def test_a_tokenizer_gives_lines_back_or_is_refused(bpe_model_dir: Path, tmp_path: Path) -> None:
    content = (bpe_model_dir / "tokenizer.json").read_bytes()
    path = tmp_path / "tokenizer.json"
    for mutant in mutants(content, EACH, SEED):
        path.write_bytes(mutant)
        with in_time():
            try:
                tokenizer = read_tokenizer(path)
                changed_lines(tokenizer, ["x = <NUM_LIT:1>", "return '<STR_LIT>'"])
            except ValueError:
                continue
            assert tokenizer.truncation is None and tokenizer.padding is None


def test_a_study_is_valid_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    plain = (STUDIES / "compression.yaml").read_bytes()
    as_json = load_study("compression").model_dump_json().encode()
    for content in (plain, as_json):
        for mutant in mutants(content, EACH // 2, SEED):
            path.write_bytes(mutant)
            with in_time():
                try:
                    study = load_study(str(path))
                except StudyError:
                    continue
                assert Study.model_validate(yaml.safe_load(study.model_dump_json())) == study
