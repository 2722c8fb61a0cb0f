"""Which recipes are accepted: compared with a grammar, and step by step."""

import itertools
import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from slimline.flows.config.study import Study, StudyError, load_study, parse_study
from tests.flows.config.studies import DYNAMIC, EXPORT, ONNX_INT8, ONNXRUNTIME, TORCH, lasso, recipe, study_of

LETTERS = {  # the grammar of recipes in one letter a step: t trains, d, x and q convert, T and O run
    "t": [{"step": "pretrain"}, {"step": "fine-tune"}, {"step": "group-lasso"}],
    "d": [DYNAMIC],
    "x": [EXPORT],
    "q": [ONNX_INT8],
    "T": [TORCH],
    "O": [ONNXRUNTIME],
}
VALID = r"t*(d?T|xq?O)"
WORDS = [trained + end for trained in ("", "t", "tt", "ttt") for end in ("T", "dT", "xO", "xqO")]


def accepted(content):
    try:
        parse_study(content)
    except StudyError as error:
        assert re.match(r"(variants\.odd|prepare)(:|\.)", str(error))
        return False
    return True


@pytest.mark.parametrize("length", range(5))
def test_every_short_recipe_is_accepted_iff_the_grammar_has_it(length):
    for word in itertools.product(LETTERS, repeat=length):
        fits = re.fullmatch(VALID, "".join(word)) is not None
        assert accepted(recipe(*(LETTERS[letter][0] for letter in word))) == fits, word


@pytest.mark.parametrize("length", range(4))
def test_every_short_preparation_is_accepted_iff_it_only_trains(length):
    for word in itertools.product(LETTERS, repeat=length):
        fits = re.fullmatch("t*", "".join(word)) is not None
        assert accepted(study_of(prepare=[LETTERS[letter][0] for letter in word])) == fits, word


def steps_of(words):
    return words.flatmap(lambda word: st.tuples(*(st.sampled_from(LETTERS[letter]) for letter in word)))


@settings(max_examples=50, deadline=None)
@given(steps_of(st.text(st.sampled_from(sorted(LETTERS)), max_size=12)))
def test_a_recipe_of_any_length_is_accepted_iff_the_grammar_has_it(steps):
    word = "".join(next(letter for letter, those in LETTERS.items() if step in those) for step in steps)
    assert accepted(recipe(*steps)) == (re.fullmatch(VALID, word) is not None)


fields = {
    "group-lasso": st.fixed_dictionaries(
        {},
        optional={
            "sparsity": st.floats(0, 1, exclude_min=True, exclude_max=True),
            "block": st.tuples(st.integers(1, 64), st.integers(1, 64)).map(list),
            "learning_rate": st.floats(0, 1, exclude_min=True, exclude_max=True),
            "max_steps": st.none() | st.integers(1),
            "seed": st.integers(0),
        },
    ),
    "pretrain": st.fixed_dictionaries({}, optional={"minutes": st.floats(0, 1e300, exclude_min=True)}),
    "onnx-int8": st.fixed_dictionaries({}, optional={"per_channel": st.booleans()}),
}


@st.composite
def studies(draw):
    words = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=5))
    variants = {}
    for number, word in enumerate(words):
        steps = [draw(st.sampled_from(LETTERS[letter])) for letter in word]
        variants[f"v{number}"] = {"recipe": [step | draw(fields.get(step["step"], st.just({}))) for step in steps]}
    baseline = draw(st.sampled_from(sorted(variants)))
    samples = draw(st.integers(1, 100_000))
    return study_of(variants=variants, baseline=baseline, data={"samples": samples}, description=draw(st.text()))


@settings(max_examples=25, deadline=None)
@given(studies())
def test_a_valid_study_survives_json_and_yaml(content):
    study = parse_study(content)
    assert Study.model_validate_json(study.model_dump_json()) == study
    assert parse_study(study.model_dump()) == study
    assert parse_study(yaml.safe_load(yaml.safe_dump(study.model_dump(mode="json")))) == study


@settings(deadline=None)
@given(st.floats() | st.sampled_from([0.0, 1.0, -0.0, 5e-324, 1 - 2**-53]))
def test_sparsity_is_any_share_between_none_and_all(value):
    assert accepted(lasso(sparsity=value)) == (0 < value < 1)


def test_beams_are_not_for_ctranslate2():
    content = load_study("compression").model_dump()
    content["measuring"]["decoding"]["beams"] = 5
    with pytest.raises(StudyError, match="beams: 5 is not for ctranslate2's ctranslate2; allowed: 1"):
        parse_study(content)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"name": "onnxruntime", "dtype": "bfloat16"}, "dtype: bfloat16 is not for onnxruntime; allowed: float32"),
        ({"name": "ctranslate2", "draft_tokens": 4}, "draft_tokens: ctranslate2 takes no drafts; allowed: 0"),
        ({"name": "torch", "dtype": "bfloat16", "draft_tokens": 4}, "draft_tokens: torch rounds bfloat16 differently"),
    ],
)
def test_an_engine_is_asked_for_what_it_can_do_only(engine, message):
    with pytest.raises(StudyError, match=re.escape(message)):
        parse_study(study_of(variants={"original": {"recipe": [{"step": "engine", **engine}]}}))


def test_only_weight_only_can_be_distilled_after_quantization():
    distill, packed = {"step": "distill"}, {"step": "weight-only"}
    assert parse_study(recipe(packed, distill, TORCH)).variants["odd"]
    with pytest.raises(StudyError, match="distill takes a checkpoint or packed checkpoint, but it would get a graph"):
        parse_study(recipe(EXPORT, distill, TORCH))
    with pytest.raises(StudyError, match="weight-only quantizes what is quantized already"):
        parse_study(recipe(packed, packed, TORCH))
