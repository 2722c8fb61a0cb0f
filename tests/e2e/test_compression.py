"""Every compression in one table, by the command; and every artifact of it loaded by its public library alone."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from slimline.flows.config.study import STUDIES
from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore
from tests.command import ROOT, SMOKE_DATA, run_command, run_program

pytestmark = [pytest.mark.e2e, pytest.mark.long]

DOCUMENT = (ROOT / "docs" / "compression.md").read_text("utf8")
LOADERS = dict(
    zip(
        ("model", "onnx", "openvino", "ctranslate2"),
        re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL),
        strict=True,
    )
)
VARIANTS = [
    "original",
    "original-longer",
    "int8-static",
    "openvino-int8",
    "ctranslate2-int8",
    "gptq-int4",
    "slim",
    "slim-int8",
]
RUN_LOADER = Path(__file__).with_name("programs") / "run_loader.py"


@pytest.fixture(scope="module")
def home(prepared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(prepared_home, tmp_path_factory.mktemp("compression") / "home")


@pytest.fixture(scope="module")
def rows(home: Path) -> dict[str, dict[str, Any]]:
    """The study, on a few lines: of each step and engine one variant."""
    study = yaml.safe_load((STUDIES / "compression.yaml").read_text("utf8"))
    study["data"] |= SMOKE_DATA
    study["variants"] = {name: study["variants"][name] for name in VARIANTS}
    for step in (step for variant in study["variants"].values() for step in variant["recipe"]):
        if step["step"] in ("onnx-static-int8", "openvino-int8", "weight-only"):
            step["calibration_samples"] = 4
    study["measuring"] |= {
        "rounds": 2,  # one pair of processes is not enough to recommend anything
        "speed_samples": 2,
        "pair_seconds": 0,
        "warmup_samples": 1,
        "decoding": {"max_new_tokens": 12},
    }
    (home / "compression.yaml").write_text(yaml.safe_dump(study, sort_keys=False), "utf8")
    finished = run_command("run", str(home / "compression.yaml"), "--json", home=home)
    return {row["variant"]: row for row in json.loads(finished.stdout)}


def artifacts_of(home: Path) -> list[ArtifactRef]:
    """What the study measured."""
    query = "SELECT DISTINCT artifact FROM measurements WHERE study = 'compression' AND artifact IS NOT NULL ORDER BY 1"
    out = run_command("sql", query, "--format", "json", home=home).stdout
    return [ArtifactStore(home / "artifacts").find(row["artifact"]) for row in json.loads(out)]


def test_every_variant_is_in_one_table(rows: dict[str, dict[str, Any]]) -> None:
    assert list(rows) == VARIANTS
    for name, row in rows.items():
        assert row["error"] is None, f"{name}: {row['error']}"
        for metric in ("disk_mb", "memory_over_base_mb", "samples_per_s", "es", "params_m"):
            assert row[metric] > 0, f"{name}: {metric}"


def test_slim_is_dense_and_60_percent_smaller(rows: dict[str, dict[str, Any]]) -> None:
    assert rows["slim"]["params_m"] <= 0.4 * rows["original"]["params_m"]
    # Stored in 8 bits, some of its weights are too small to be told from zero.
    assert rows["slim"]["params_nonzero_m"] == pytest.approx(rows["slim"]["params_m"], rel=0.03)
    assert rows["slim-int8"]["disk_mb"] <= rows["original"]["disk_mb"] / 9


def test_every_matrix_is_really_in_int8(rows: dict[str, dict[str, Any]]) -> None:
    for name in ("int8-static", "openvino-int8", "ctranslate2-int8"):
        assert (rows[name]["int8_matmuls"], rows[name]["matmuls"]) == (25, 25), name


def test_every_artifact_loads_without_us(rows: dict[str, dict[str, Any]], home: Path, tmp_path: Path) -> None:
    store = ArtifactStore(home / "artifacts")
    loadable = [ref for ref in artifacts_of(home) if ref.kind in LOADERS]  # packed weights are of our own format
    for ref in loadable:
        reference: Any = store.provenance(ref).notes["reference"]
        guide = tmp_path / f"{ref.kind}.py"
        guide.write_text(LOADERS[ref.kind], "utf8")
        printed = run_program(RUN_LOADER, guide, store.path(ref), json.dumps(reference["prompt"])).stdout
        logits = json.loads(printed.splitlines()[-1])
        found = [logits[token] for token in reference["tokens"]]
        assert found == pytest.approx(reference["logits"], abs=1e-3), str(ref)
    assert {ref.kind for ref in loadable} == set(LOADERS)


def test_the_recommended_variant_keeps_its_constraints(rows: dict[str, dict[str, Any]], home: Path) -> None:
    finished = run_command("recommend", "--max-disk-mb", "10", "--max-es-drop", "100", "--json", home=home)
    named = json.loads(finished.stdout)["winner"]
    assert rows[named]["disk_mb"] <= 10
    impossible = run_command("recommend", "--max-disk-mb", "0.1", home=home, check=False)
    assert impossible.returncode == 1 and "disk" in impossible.stdout + impossible.stderr


@pytest.mark.parametrize(
    "command", [line for line in re.findall(r"^slimline .*$", DOCUMENT, re.MULTILINE) if " run " not in line]
)
def test_the_documents_commands_run(rows: dict[str, dict[str, Any]], home: Path, command: str) -> None:
    finished = run_command(*shlex.split(command)[1:], home=home, check=False)
    assert finished.returncode in ((0, 1) if "recommend" in command else (0,)), finished.stderr
    assert finished.stdout
