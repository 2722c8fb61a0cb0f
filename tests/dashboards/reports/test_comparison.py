"""The comparison with what is published, and the sensitivity of tensors, of runs whose figures are known."""

from pathlib import Path

import pytest

from slimline.dashboards.reports.charts import svg
from slimline.dashboards.reports.comparison import comparison
from slimline.dashboards.reports.lineage import Origin
from slimline.dashboards.reports.sensitivity import analyses, sensitivity_chart
from slimline.storage.artifacts.store import ArtifactRef, Provenance
from slimline.storage.metrics.store import MetricsStore
from slimline.storage.queries.results import result_rows
from tests.storage.factories import NOON, measured, prediction_row, run_row

TORCH = {"step": "engine", "name": "torch"}
LASSO, DYNAMIC = {"step": "group-lasso"}, {"step": "dynamic-int8"}
SPEC = {
    "variants": {
        "original": {"label": "baseline", "recipe": [TORCH]},
        "longer": {"label": "control", "recipe": [{"step": "fine-tune"}, TORCH]},
        "pruned": {"label": "as published", "recipe": [LASSO, TORCH]},
        "quantized": {"label": "as published", "recipe": [LASSO, DYNAMIC, TORCH]},
        "xtc-1bit": {"label": "as published", "recipe": [{"step": "xtc"}, TORCH]},
        "small": {"label": "repaired", "recipe": [{"step": "slim"}, TORCH], "repairs": ["pruned"]},
        "other": {"recipe": [{"step": "mine"}, TORCH]},
    }
}
ES = {"original": 90, "longer": 92, "pruned": 80, "quantized": 60, "xtc-1bit": 50, "small": 88, "other": 70}


@pytest.fixture
def text(tmp_path: Path) -> str:
    store = MetricsStore(tmp_path)
    store.append([run_row("r1", samples=2, spec=SPEC)])
    rows = []
    for name, es in ES.items():
        label = str(SPEC["variants"][name].get("label", "ours"))
        rows += [measured(name, "es", es, label=label), measured(name, "disk_mb", 8.0, label=label)]
        rows += [measured(name, "params_m", 4.0, label=label)]
    rows += [measured("quantized", "matmuls", 25.0), measured("quantized", "int8_matmuls", 1.0)]
    store.append(rows)
    store.append([prediction_row(name, sample, es=es, em=False) for name, es in ES.items() for sample in range(2)])
    return comparison(result_rows(store, None, "r1"), store)


def lines_of(text: str, first: str) -> list[list[str]]:
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return [line for line in cells if line[0] == first]


def test_every_system_is_beside_what_is_published_and_its_repair(text: str) -> None:
    names = [line.split("|")[1:3] for line in text.partition("###")[0].splitlines() if line.startswith("|")]
    found = [tuple(cell.strip() for cell in cells) for cells in names]
    assert ("pruned (delftblue)", "published") in found
    assert found.index(("**pruned**", "as published")) + 1 == found.index(("**small**", "repaired: pruned"))
    assert not [name for name, _ in found if name == "**other**"]


def test_published_figures_are_in_the_columns_that_mean_the_same(text: str) -> None:
    (line,) = lines_of(text, "pruned (delftblue)")
    assert line[1:] == ["published", "", "240.52", "3175", "1.05", "30.54", "", "9.0", "49.77"]


def test_what_is_published_in_words_is_there(text: str) -> None:
    (line,) = lines_of(text, "CodeGPT on XTC (de Moor 2023)")
    assert "15 times smaller" in line[1]


def test_each_explanation_has_its_measurement(text: str) -> None:
    assert ["quantized", "1 of 25", "60.00"] in lines_of(text, "quantized")
    # The head is all that this step quantizes: without it, it is the pruned model.
    assert ["quantized", "pruned", "`dynamic-int8`", "20.00 [20.00, 20.00]"] in lines_of(text, "quantized")
    assert ["xtc-1bit", "16.0", "50.00", "–"] in lines_of(text, "xtc-1bit")  # noqa: RUF001 - the sign for no figure
    assert ["pruned", "original", "`group-lasso`", "10.00 [10.00, 10.00]"] in lines_of(text, "pruned")


def test_the_control_is_compared_with_the_baseline(tmp_path: Path) -> None:
    store = MetricsStore(tmp_path)
    store.append(
        [run_row("r1", samples=2, spec=SPEC | {"control": "longer", "baseline": "original"}, control="longer")]
    )
    store.append([measured(name, "es", ES[name]) for name in ("original", "longer")])
    store.append([measured("longer", "train_tokens", 5e6)])
    store.append([prediction_row(name, 0, es=ES[name], em=False) for name in ("original", "longer")])
    assert "5.0 M more tokens of the text alone: its ES is 2.00" in comparison(result_rows(store, None, "r1"), store)


def origin(variants: tuple[str, ...], **notes: object) -> Origin:
    provenance = Provenance.model_validate(
        {
            "step": {"step": "mp-ptq"},
            "inputs": [],
            "versions": {},
            "host": "h",
            "created": NOON,
            "seconds": 1,
            "notes": notes,
        }
    )
    return Origin(ArtifactRef(kind="onnx", digest="a" * 64), provenance, 1.0, variants)


def test_sensitivities_are_drawn_with_the_bits_in_words() -> None:
    table = [["wte.weight", 0.01, 16], ["h.0.mlp.c_fc", 0.001, 8]]
    (found,) = analyses([origin(("mp",), sensitivity=table), origin(("int8",)), origin((), sensitivity=table)])
    assert found.variants == ("mp",) and [each.bits for each in found.tensors] == [16, 8]
    drawn = svg(sensitivity_chart(found))
    for each in ("wte.weight", "h.0.mlp.c_fc", "16 bits", "8 bits", "nats per token"):
        assert each in drawn


def test_an_analysis_that_cannot_be_read_is_left_out() -> None:
    assert analyses([origin(("mp",), sensitivity=[["wte", "much"]]), origin(("mp",), sensitivity=3)]) == []
