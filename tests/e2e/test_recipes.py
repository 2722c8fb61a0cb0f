"""Steps after steps: pruning, trimming, distillation and drafts, from a study of one's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from slimline.storage.artifacts.store import ArtifactStore
from tests.command import SMOKE_DATA, run_command

pytestmark = [pytest.mark.e2e, pytest.mark.long]

CHAIN = (
    f"data: {SMOKE_DATA}"
    + """
base: {source: bundled}
variants:
  original: {label: baseline, recipe: [{step: export-onnx}, {step: engine, name: onnxruntime}]}
  slimmer:
    recipe:
      - {step: trim-vocabulary, tokens: 1024}
      - {step: slim, sparsity: 0.5, calibration_windows: 2, trial_steps: 1, window: 128}
      - {step: distill, minutes: 5, max_steps: 4, batch_size: 2, window: 128}
      - {step: export-onnx}
      - {step: onnx-int8}
      - {step: engine, name: onnxruntime}
  recovered:
    recipe:
      - {step: weight-only, method: rtn, bits: 4}
      - {step: distill, minutes: 5, max_steps: 4, batch_size: 2, window: 128}
      - {step: engine, name: torch}
  lookup: {recipe: [{step: export-onnx}, {step: engine, name: onnxruntime, draft_tokens: 4}]}
  torch-lookup: {recipe: [{step: engine, name: torch, draft_tokens: 4}]}
measuring: {rounds: 1, speed_samples: 2, pair_seconds: 0, warmup_samples: 1, quality_batch_size: 1,
  decoding: {max_new_tokens: 16}}
"""
)


@pytest.fixture(scope="module")
def home(prepared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(prepared_home, tmp_path_factory.mktemp("recipes") / "home")


@pytest.fixture(scope="module")
def chain(home: Path) -> dict[str, dict[str, Any]]:
    (home / "chain.yaml").write_text(CHAIN, "utf8")
    finished = run_command("run", str(home / "chain.yaml"), "--json", home=home)
    return {row["variant"]: row for row in json.loads(finished.stdout)}


def test_pruning_and_distillation_from_a_study(chain: dict[str, dict[str, Any]], home: Path) -> None:
    assert all(row["error"] is None for row in chain.values())
    assert chain["slimmer"]["params_m"] < 0.5 * chain["original"]["params_m"]
    assert chain["recovered"]["disk_mb"] < 0.25 * chain["original"]["disk_mb"]
    store = ArtifactStore(home / "artifacts")
    teachers = {made.inputs[1] for made in map(store.provenance, store.list()) if made.step["step"] == "distill"}
    (teacher,) = teachers
    assert store.provenance(teacher).step["source"] == "bundled"


def test_drafts_change_no_completion(chain: dict[str, dict[str, Any]], home: Path) -> None:
    run = chain["original"]["run"]
    query = f"SELECT variant, list(prediction ORDER BY sample) AS lines FROM predictions WHERE run = '{run}' GROUP BY 1"
    out = run_command("sql", query, "--format", "json", home=home).stdout
    lines = {row["variant"]: row["lines"] for row in json.loads(out)}
    assert len(lines["original"]) == SMOKE_DATA["samples"]
    assert lines["original"] == lines["lookup"] == lines["torch-lookup"]
