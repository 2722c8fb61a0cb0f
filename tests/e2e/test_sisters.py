"""The systems that the study compares itself with, from the documentation's own study: built, executed, measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from slimline.storage.artifacts.store import ArtifactStore
from slimline.tasks.itrex import environment
from tests.command import ROOT, run_command
from tests.system import give_up

pytestmark = [pytest.mark.e2e, pytest.mark.long]

DOCUMENT = (ROOT / "docs" / "compression.md").read_text("utf8")
(STUDY,) = re.findall(r"```yaml\n(base: (?:(?!```).)*?xtc.*?)```", DOCUMENT, re.DOTALL)
(LIBRARY,) = re.findall(r"```yaml\n(recipe: [^\n]*itrex[^\n]*)\n", DOCUMENT)


@pytest.fixture(scope="module")
def rows(smoke_home: Path) -> dict[str, dict[str, Any]]:
    """Of a run on the data of the smoke study, whose slice is there already."""
    if problem := environment.problem():
        give_up(f"{problem}; {environment.BUILD}")
    study = yaml.safe_load(STUDY)
    (pruning, quantization, engine) = yaml.safe_load(LIBRARY)["recipe"]
    pruning |= {"max_steps": 2, "batch_size": 2, "window": 128}
    study["variants"] |= {
        "pruned-itrex": {"label": "as published", "recipe": [pruning, engine]},
        "quantized-itrex": {"label": "as published", "recipe": [pruning, quantization, engine]},
    }
    study["variants"]["mp-ptq"]["repairs"] = ["quantized-itrex"]
    study["measuring"] |= {"rounds": 1, "speed_samples": 2, "pair_seconds": 0, "warmup_samples": 1}
    (smoke_home / "sisters.yaml").write_text(yaml.safe_dump(study), "utf8")
    finished = run_command("run", str(smoke_home / "sisters.yaml"), "--json", home=smoke_home, check=False)
    return {row["variant"]: row for row in json.loads(finished.stdout)}


def test_every_system_is_built_and_measured(rows: dict[str, dict[str, Any]]) -> None:
    assert {name: row["error"] for name, row in rows.items()} == dict.fromkeys(rows)
    assert set(rows) == {
        *("original", "distil", "xtc-1bit", "mp-ptq", "peg-ptq"),
        *("pruned-itrex", "quantized-itrex"),
    }
    for row in rows.values():
        assert row["speed_ratio"] > 0 and row["es"] is not None and 0 <= row["line_agreement"] <= 100
        assert row["line_agreement_lo"] <= row["line_agreement"] <= row["line_agreement_hi"]


def test_sizes_are_what_the_systems_claim(rows: dict[str, dict[str, Any]]) -> None:
    disk = {name: row["disk_mb"] for name, row in rows.items()}
    assert disk["xtc-1bit"] < disk["original"] / 15
    for name in ("mp-ptq", "peg-ptq"):
        assert disk[name] < disk["original"] / 3.7
    assert rows["distil"]["params_m"] < 0.7 * rows["original"]["params_m"]
    assert rows["pruned-itrex"]["params_nonzero_m"] == pytest.approx(0.4 * rows["original"]["params_m"], rel=0.02)


def test_what_they_say_is_executed_in_int8_is(rows: dict[str, dict[str, Any]]) -> None:
    shares = {name: (row["int8_matmuls"], row["matmuls"]) for name, row in rows.items() if row["matmuls"]}
    assert shares["xtc-1bit"] == (13, 13)  # half of the layers, and the head
    assert shares["peg-ptq"] == (100, 100)  # four groups of 25
    assert shares["mp-ptq"] == (29, 29)  # four of 25 tensors have 16 bits, in two products
    assert shares["quantized-itrex"] == (1, 25)  # as published: the head, and embeddings


def test_the_sensitivity_is_kept_and_drawn(rows: dict[str, dict[str, Any]], smoke_home: Path, tmp_path: Path) -> None:
    store = ArtifactStore(smoke_home / "artifacts")
    (notes,) = [made.notes for made in map(store.provenance, store.list()) if made.step["step"] == "mp-ptq"]
    assert len(notes["sensitivity"]) == 25
    run_command("report", "--figures", str(tmp_path), "--out", str(tmp_path / "report.html"), home=smoke_home)
    assert (tmp_path / "sensitivity-mp-ptq.svg").stat().st_size > 5000
    page = (tmp_path / "report.html").read_text("utf8")
    assert "What each tensor costs in 8 bits" in page and "h.0.mlp.c_fc" in page


def test_the_comparison_has_every_system(rows: dict[str, dict[str, Any]], smoke_home: Path) -> None:
    text = run_command("comparison", home=smoke_home).stdout
    for published in ("CodeGPT on XTC", "Distil-CodeGPT", "MP PTQ", "PEG PTQ"):
        assert f"| {published} (" in text
    assert "repaired: quantized-itrex" in text and "29 of 29" in text
