"""Shapes are those of transformers' GPT-2: parameter counts, and everything a model can be cut down to."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from slimline.tasks.models.architectures import ARCHITECTURES
from slimline.tasks.models.checkpoint import read_gpt2_config
from slimline.tasks.pruning.shapes import Shape, largest_shapes, parameters, shape_of, smaller_shapes

CODEGPT_SMALL = Shape(layers=12, heads=12, width=768, inner=3072, vocabulary=50_001, positions=1024)
SMALL = Shape(layers=3, heads=2, width=32, inner=128, vocabulary=61, positions=16)


def gpt2_config(shape: Shape, tied: bool = True) -> GPT2Config:
    return GPT2Config(
        n_layer=shape.layers,
        n_head=shape.heads,
        n_embd=shape.width,
        n_inner=shape.inner,
        vocab_size=shape.vocabulary,
        n_positions=shape.positions,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=tied,
    )


def gpt2(shape: Shape, tied: bool = True) -> GPT2LMHeadModel:
    with torch.device("meta"):  # shapes without memory
        return GPT2LMHeadModel(gpt2_config(shape, tied))


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    heads = draw(st.integers(1, 5))
    width = heads * draw(st.integers(1, 24))
    sizes = [draw(st.integers(1, most)) for most in (4, 200, 99, 64)]
    return Shape(sizes[0], heads, width, *sizes[1:])


def test_codegpt_small_has_124_24_million_parameters() -> None:
    assert parameters(CODEGPT_SMALL) == 124_243_200
    assert parameters(CODEGPT_SMALL) == sum(weight.numel() for weight in gpt2(CODEGPT_SMALL).parameters())
    assert shape_of(ARCHITECTURES["codegpt-small"]) == CODEGPT_SMALL


@given(shapes(), st.booleans())
def test_parameters_are_those_of_transformers(shape: Shape, tied: bool) -> None:
    assert parameters(shape, tied) == sum(weight.numel() for weight in gpt2(shape, tied).parameters())


def test_shape_of_a_checkpoints_configuration(tmp_path: Path) -> None:
    raw = gpt2_config(SMALL).to_dict()
    assert shape_of(raw) == SMALL
    raw["n_inner"] = None
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert shape_of(raw) == shape_of(read_gpt2_config(tmp_path)) == SMALL._replace(inner=4 * 32)


def test_shape_of_refuses_heads_that_do_not_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"n_head.*3.*n_embd.*32"):
        shape_of(gpt2_config(SMALL).to_dict() | {"n_head": 3})


def test_candidates_by_hand() -> None:
    found = list(smaller_shapes(SMALL, inner_multiple=64))
    sizes = itertools.product((3, 2, 1), ((2, 32), (1, 16)), (128, 64))
    expected = [Shape(layers, *heads, inner, 61, 16) for layers, heads, inner in sizes]
    assert found == expected[1:]  # all but the original


def test_an_inner_width_below_or_between_the_multiples_can_stay() -> None:
    assert {shape.inner for shape in smaller_shapes(SMALL._replace(inner=20))} == {20}
    assert {shape.inner for shape in smaller_shapes(SMALL._replace(inner=70))} == {32, 64, 70}


@given(shapes(), st.data())
def test_every_candidate_is_a_smaller_stock_gpt2(original: Shape, data: st.DataObject) -> None:
    found = list(smaller_shapes(original))
    assert len(set(found)) == len(found) == original.layers * original.heads * math.ceil(original.inner / 32) - 1
    for shape in found and [data.draw(st.sampled_from(found))]:
        assert shape_of(gpt2_config(shape).to_dict()) == shape
        assert shape.width // shape.heads == original.width // original.heads
        assert shape[4:] == original[4:]
        model = gpt2(shape)
        assert parameters(shape) == sum(weight.numel() for weight in model.parameters()) < parameters(original)


@given(shapes(), st.floats(0, 1))
def test_the_search_finds_the_most_neurons_of_every_depth_and_width(original: Shape, share: float) -> None:
    limit = share * parameters(original)
    found = largest_shapes(original, lambda shape: parameters(shape) <= limit)
    best = {}
    for shape in sorted(smaller_shapes(original), key=lambda shape: shape.inner):
        is_wide = shape.width > 1 and shape.inner >= min(shape.width, original.inner)
        if parameters(shape) <= limit and is_wide:
            best[shape.layers, shape.heads] = shape
    assert sorted(found) == sorted(best.values())
    assert [parameters(shape) for shape in found] == sorted(map(parameters, found), reverse=True)


def test_the_largest_shape_by_hand() -> None:
    one_layer = Shape(1, 2, 32, 96, 61, 16)
    limit = parameters(one_layer)
    assert largest_shapes(SMALL, lambda shape: parameters(shape) <= limit)[0] == one_layer
    assert largest_shapes(SMALL, lambda shape: parameters(shape) < limit)[0] != one_layer
    assert largest_shapes(SMALL, lambda shape: parameters(shape) <= 10) == []
