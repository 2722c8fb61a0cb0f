"""What the steps of the sister systems refuse, and what a variant repairs."""

import pytest

from slimline.flows.config.study import parse_study
from tests.flows.config.studies import EXPORT, ONNXRUNTIME, ORIGINAL, TORCH, recipe, refusal, study_of

REPAIRED = {"label": "repaired", "recipe": [TORCH]}


@pytest.mark.parametrize("other", ["nobody", "better"], ids=["unknown", "itself"])
def test_a_variant_repairs_another_one_of_its_study(other: str) -> None:
    content = study_of(variants={"original": ORIGINAL, "better": REPAIRED | {"repairs": [other]}})
    assert f"better.repairs: '{other}' is unknown" in refusal(content)


def test_what_is_left_out_is_not_repaired() -> None:
    variants = {"original": ORIGINAL, "odd": {"recipe": [TORCH]}, "better": REPAIRED | {"repairs": ["odd", "original"]}}
    study = parse_study(study_of(variants=variants))
    assert study.only(["better"]).variants["better"].repairs == ("original",)
    assert study.with_options(variants=["better"], rounds=1).variants["better"].repairs == ("original",)


@pytest.mark.parametrize(
    ("step", "field", "value"),
    [
        ({"step": "xtc", "bits": 3}, "xtc.bits", "3"),
        ({"step": "xtc", "table_bits": 4}, "xtc.table_bits", "4"),
        ({"step": "reduce-layers", "layers": 0}, "reduce-layers.layers", "0"),
        ({"step": "itrex-group-lasso", "sparsity": 1}, "itrex-group-lasso.sparsity", "1"),
    ],
    ids=lambda value: value["step"] if isinstance(value, dict) else str(value),
)
def test_the_sister_systems_refuse_what_they_do_not_offer(step: dict, field: str, value: str) -> None:
    message = refusal(recipe(step, TORCH))
    assert f"variants.odd.recipe.0.{field}" in message and value in message


@pytest.mark.parametrize(
    ("step", "field"),
    [
        ({"step": "mp-ptq", "calibration_samples": 0}, "mp-ptq.calibration_samples"),
        ({"step": "mp-ptq", "sensitive_share": 1.5}, "mp-ptq.sensitive_share"),
        ({"step": "peg-ptq", "groups": 0}, "peg-ptq.groups"),
    ],
    ids=lambda value: value["step"] if isinstance(value, dict) else value,
)
def test_quantization_without_data_or_groups_is_refused(step: dict, field: str) -> None:
    assert f"variants.odd.recipe.1.{field}" in refusal(recipe(EXPORT, step, ONNXRUNTIME))
