"""The torch engine beyond fp32: bfloat16, and drafts that change nothing but the number of passes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from slimline.tasks.engines.base import CompletionEngine, load_engine
from slimline.tasks.models.checkpoint import CheckpointError
from slimline.tasks.quantization.dynamic_int8 import quantize_linear_only
from slimline.tasks.specs import Decoding, Engine
from tests.tasks.gpt2_models import POSITIONS, STOP, VOCABULARY, counting, prompts, random_gpt2, save, trained_gpt2

GREEDY = Decoding(max_new_tokens=12)
DECODINGS = [GREEDY, Decoding(fixed_new_tokens=9), Decoding(max_new_tokens=1), Decoding(max_new_tokens=2)]


@pytest.fixture(scope="module", params=["random", "trained"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = random_gpt2() if request.param == "random" else trained_gpt2()
    return save(model, tmp_path_factory.mktemp(request.param))


def tokens(engine: CompletionEngine, batch: list[list[int]], decoding: Decoding = GREEDY) -> list[list[int]]:
    return [completion.tokens for completion in engine.complete(batch, STOP, decoding)]


def repetitive_prompts(count: int) -> list[list[int]]:
    """Texts in which the last tokens have occurred before, up to the longest that leaves room for 12 tokens."""
    rng = np.random.default_rng(3)
    return [counting(rng, int(length)) for length in rng.integers(2, POSITIONS - 12 + 1, count)]


def test_bfloat16_is_held_in_bfloat16_and_is_close(checkpoint: Path) -> None:
    fp32, bf16 = (load_engine(Engine(name="torch", dtype=dtype), checkpoint, 1) for dtype in ("float32", "bfloat16"))
    model = bf16._model  # type: ignore[attr-defined]
    assert {value.dtype for value in model.state_dict().values()} == {torch.bfloat16}
    for prompt in prompts(10):
        logits = bf16.logits(prompt)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, fp32.logits(prompt), atol=0.2)
        np.testing.assert_allclose(logits, model(torch.tensor([prompt])).logits[0, -1].detach().float(), atol=0.2)


def test_bfloat16_completions_do_not_depend_on_the_batch(checkpoint: Path) -> None:
    engine = load_engine(Engine(name="torch", dtype="bfloat16"), checkpoint, 1)
    batch = prompts(21)
    assert tokens(engine, batch) == [tokens(engine, [prompt])[0] for prompt in batch]
    beams = Decoding(beams=3, max_new_tokens=4)
    assert tokens(engine, batch[:3], beams) == [tokens(engine, [prompt], beams)[0] for prompt in batch[:3]]


@pytest.mark.parametrize("drafted", [1, 4, 32])
def test_drafts_do_not_change_completions(drafted: int, checkpoint: Path) -> None:
    plain = load_engine(Engine(name="torch"), checkpoint, 1)
    drafting = load_engine(Engine(name="torch", draft_tokens=drafted), checkpoint, 1)
    batch = [*repetitive_prompts(20), *prompts(10), [5], [5] * (POSITIONS - 12)]
    for decoding in DECODINGS:
        expected = tokens(plain, batch, decoding)
        assert [tokens(drafting, [prompt], decoding)[0] for prompt in batch] == expected
        assert tokens(drafting, batch, decoding) == expected
    beams = Decoding(beams=3, max_new_tokens=4)
    assert tokens(drafting, batch[:2], beams) == tokens(plain, batch[:2], beams)


def test_drafts_save_passes(tmp_path: Path) -> None:
    directory = save(trained_gpt2(), tmp_path)
    passes = []
    for drafted in (0, 4):
        engine = load_engine(Engine(name="torch", draft_tokens=drafted), directory, 1)
        widths: list[int] = []
        engine._model.transformer.wpe.register_forward_hook(  # type: ignore[attr-defined]
            lambda module, inputs, output, widths=widths: widths.append(output.shape[1])
        )
        (completion,) = engine.complete([[*range(2, 40, 3), 0, *range(2, 12, 3)]], (), Decoding(fixed_new_tokens=9))
        assert len(completion.tokens) == 9
        assert completion.prefill_s > 0 and completion.decode_s >= 0
        passes.append(len(widths))
    assert passes[0] == 9
    assert passes[1] <= 4


def test_drafts_are_refused_where_they_would_change_completions(tmp_path: Path) -> None:
    directory = save(random_gpt2(), tmp_path / "model")
    quantize_linear_only(directory, tmp_path / "int8")
    with pytest.raises(ValueError, match=r"draft_tokens.*bfloat16.*0"):
        load_engine(Engine(name="torch", dtype="bfloat16", draft_tokens=4), directory, 1)
    with pytest.raises(ValueError, match=r"draft_tokens.*4.*dynamic-int8.*0"):
        load_engine(Engine(name="torch", draft_tokens=4), tmp_path / "int8", 1)
    with pytest.raises(CheckpointError, match=r"dtype.*bfloat16.*float32"):
        load_engine(Engine(name="torch", dtype="bfloat16"), tmp_path / "int8", 1)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    directory = save(random_gpt2(), tmp_path)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"vocab_size": VOCABULARY + 1}))
    with pytest.raises(CheckpointError, match=r"wte\.weight is \[97, 32\]; config.json allows \[98, 32\]"):
        load_engine(Engine(name="torch"), directory, 1)
