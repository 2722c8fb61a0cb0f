"""`slimline artifacts`: what is in the store, whether it is whole, and what may go."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore, Provenance
from slimline.storage.metrics.rows import MeasurementRow, RunRow
from slimline.storage.metrics.store import MetricsStore
from tests.flows.cli.answer import Slimline

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


class Published(NamedTuple):
    """A model, the graph made of it, and a slice that nothing was made of."""

    model: ArtifactRef
    graph: ArtifactRef
    slice_: ArtifactRef


@pytest.fixture
def published(home: Path, tmp_path: Path) -> Published:
    store = ArtifactStore(home / "artifacts")

    def publish(kind: str, step: str, inputs: list[ArtifactRef]) -> ArtifactRef:
        directory = tmp_path / kind
        directory.mkdir()
        (directory / f"{kind}.bin").write_bytes(kind.encode() * 1000)
        (directory / "config.json").write_text("{}")
        provenance = Provenance(step={"step": step}, inputs=inputs, versions={}, host="box", created=NOON, seconds=1.0)
        return store.publish(directory, kind, provenance)

    model = publish("model", "fine-tune", [])
    return Published(model, publish("onnx", "export-onnx", [model]), publish("slice", "data", []))


def test_artifacts_are_listed_and_shown(slimline: Slimline, home: Path, published: Published) -> None:
    text = slimline("artifacts", "list")
    assert (text.status, text.err) == (0, "")
    lines = [line.split() for line in text.out.splitlines()]
    made = [("fine-tune", published.model), ("export-onnx", published.graph), ("data", published.slice_)]
    assert [(line[-1], line[0]) for line in lines] == [(step, str(ref)) for step, ref in made]
    assert lines[0][1:5] == ["0.01", "MB", "2026-11-01", "12:00"]
    listed = json.loads(slimline("artifacts", "list", "--json").out)
    assert [(one["step"], one["ref"], one["size"], one["files"]) for one in listed] == [
        (step, str(ref), 1000 * len(ref.kind) + 2, 2) for step, ref in made
    ]
    shown = json.loads(slimline("artifacts", "show", f"onnx:{published.graph.digest[:6]}").out)
    assert shown["ref"] == published.graph.model_dump()
    assert [file["path"] for file in shown["files"]] == ["config.json", "onnx.bin"]
    assert (Path(shown["path"]) / "onnx.bin").read_bytes() == b"onnx" * 1000
    assert shown["provenance"]["inputs"] == [published.model.model_dump()]
    assert shown["provenance"]["step"] == {"step": "export-onnx"}


@pytest.mark.parametrize("reference", ["model:0000", "dataset:ab", "No such"])
def test_an_unknown_artifact_is_refused(slimline: Slimline, published: Published, reference: str) -> None:
    answer = slimline("artifacts", "show", reference)
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("error: ") and f"{reference!r}" in answer.err
    assert "kind:digest" in answer.err or str(published.model) in answer.err


def test_a_damaged_artifact_is_found_and_named(slimline: Slimline, home: Path, published: Published) -> None:
    whole = slimline("artifacts", "verify")
    assert (whole.status, whole.out, whole.err) == (0, "3 of 3 artifacts are whole\n", "")
    file = ArtifactStore(home / "artifacts").path(published.model) / "model.bin"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    damaged = slimline("artifacts", "verify")
    assert (damaged.status, damaged.out) == (1, "2 of 3 artifacts are whole\n")
    assert len(damaged.err.splitlines()) == 1
    assert all(words in damaged.err for words in (str(published.model), "model.bin: expected SHA-256", "found"))


def test_gc_keeps_what_the_newest_run_measured_and_was_made_of(
    slimline: Slimline, home: Path, published: Published
) -> None:
    used = MeasurementRow(
        run="r1",
        study="mine",
        host="box",
        variant="onnx",
        metric="es",
        value=1.0,
        time=NOON,
        artifact=published.graph.digest,
    )
    metrics = MetricsStore(home / "metrics")
    metrics.append([RunRow(run="r1", study="mine", host="box", started=NOON, status="ok")])
    metrics.append([used])
    store = ArtifactStore(home / "artifacts")
    dry = slimline("artifacts", "gc", "--keep-hours", "0", "--dry-run")
    assert (dry.status, dry.out) == (0, f"would remove {published.slice_}\n1 artifacts would go\n")
    assert set(store.list()) == set(published)
    real = slimline("artifacts", "gc", "--keep-hours", "0")
    assert (real.status, real.out) == (0, f"removed {published.slice_}\n1 artifacts removed\n")
    assert store.list() == [published.model, published.graph]


def test_an_empty_store_has_no_artifacts(slimline: Slimline, home: Path) -> None:
    assert json.loads(slimline("artifacts", "list", "--json").out) == []
    assert slimline("artifacts", "verify").out == "0 of 0 artifacts are whole\n"
    assert slimline("artifacts", "gc", "--keep-hours", "0", "--dry-run").out == "0 artifacts would go\n"
    assert not home.exists()
