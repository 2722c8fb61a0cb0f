"""What a run shows in the interface, up to the request that publishes it."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path

import pytest

from slimline.dashboards.reports.recommendation import results_by_host
from slimline.flows.ui import artifacts
from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore, Provenance
from tests.factories import result_row


def published(store: ArtifactStore, directory: Path, kind: str, step: str, *inputs: ArtifactRef) -> ArtifactRef:
    directory.mkdir(exist_ok=True)
    (directory / "content").write_text(step)
    noon = datetime(2026, 11, 1, 12, tzinfo=UTC)
    made = Provenance(
        step={"step": step}, inputs=list(inputs), versions={}, host="here", created=noon, seconds=2, notes={}
    )
    return store.publish(directory, kind, made)


def test_lineage_names_each_artifact_once_after_what_it_was_made_from(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    base = published(store, tmp_path / "work", "model", "base")
    data = published(store, tmp_path / "work", "slice", "data")
    graph = published(store, tmp_path / "work", "onnx", "export-onnx", base)
    int8 = published(store, tmp_path / "work", "onnx", "onnx-static-int8", graph, data)
    measured = {"original": base.digest, "int8": int8.digest, "gone": "0" * 64}
    rows = [result_row(variant, host=host, artifact=measured[variant]) for host in ("a", "b") for variant in measured]
    head, rule, *lines = artifacts._lineage(rows, store).splitlines()
    assert head.count("|") == rule.count("|") == 8
    assert [line.split("|")[1].strip(" `") for line in lines] == [str(ref) for ref in (base, graph, data, int8)]
    assert lines[0].split("|")[4].strip() == "original"
    assert lines[3].split("|")[3].strip() == f"`{graph}`, `{data}`" and lines[3].split("|")[4].strip() == "int8"


@pytest.mark.parametrize(
    ("floor", "tainted", "words"),
    [(0.02, False, "2.0 % (noise floor); trustworthy"), (0.2, True, "tainted"), (None, True, "unknown")],
)
def test_the_noise_floor_is_said(floor: float | None, tainted: bool, words: str) -> None:
    assert words in artifacts._trust(result_row("original", noise_floor=floor, tainted=tainted))


def test_the_pictures_need_no_server() -> None:
    figures = {"samples_per_s": 2.0, "es": 50.0, "es_drop": 0.0, "disk_mb": 3.0, "memory_mb": 9.0, "speed_ratio": 1.0}
    (found,) = results_by_host([result_row("original", figures)])
    pictures = list(artifacts._pictures(found))
    assert [name for name, _, _ in pictures] == ["tradeoff", "speedups"]
    for _, caption, url in pictures:
        kind, _, content = url.partition(",")
        assert kind == "data:image/svg+xml;base64" and caption
        assert b"original" in base64.b64decode(content)


def test_keys_are_what_prefect_takes() -> None:
    assert artifacts._key("my study-tradeoff-Box.local_1") == "my-study-tradeoff-box-local-1"


def test_the_dashboard_is_linked_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMLINE_DASHBOARD_URL", "http://127.0.0.1:9999")
    assert artifacts.dashboard_link("a b") == "http://127.0.0.1:9999/?run=a+b"
    assert artifacts.dashboard_link("a", "report") == "http://127.0.0.1:9999/report?run=a"
