from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from slimline.tasks.data.tokenizer import load_tokenizer
from slimline.tasks.engines.base import load_engine
from slimline.tasks.models.loading import load_gpt2
from slimline.tasks.models.packed import PACKED_FILE
from slimline.tasks.pruning.vocabulary import trim_vocabulary
from slimline.tasks.quantization.weight_only import quantize_weights
from slimline.tasks.specs import Distill, Engine, TrimVocabulary, WeightOnly
from slimline.tasks.training.distill import (
    TokenMap,
    _Pair,
    align,
    carry_over,
    distill,
    kl_divergence,
    map_tokens,
    soften,
)
from tests.command import program_command
from tests.tasks.bpe_models import write_bpe_model
from tests.tasks.tiny import TRAIN

SPEC = Distill(minutes=10, max_steps=12, window=64, batch_size=2)


@pytest.fixture(scope="module")
def student_dir(bpe_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of fewer tokens, and narrower."""
    full = write_bpe_model(tmp_path_factory.mktemp("narrow"), n_embd=16)
    target = tmp_path_factory.mktemp("student")
    trim_vocabulary(full, target, TrimVocabulary(tokens=600))
    return target


def test_the_teachers_probabilities_are_carried_over_by_what_tokens_begin_with() -> None:
    first = TokenMap([[0], [1], [2], [0, 1], [1, 1, 2]]).first
    teacher = torch.tensor([[0.1, 0.2, 0.3, 0.15, 0.25]])
    torch.testing.assert_close(carry_over(teacher, first, 3), torch.tensor([[0.25, 0.45, 0.3]]))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_a_student_that_knows_the_teachers_probabilities_has_no_loss_at_any_temperature(temperature: float) -> None:
    first = TokenMap([[0], [1], [2], [0, 1], [1, 1, 2]]).first
    carried = carry_over(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).softmax(-1), first, 3)
    assert float(kl_divergence(carried.log(), soften(carried, temperature), temperature)) == pytest.approx(0, abs=1e-6)


def test_the_loss_is_kullback_leibler() -> None:
    wanted = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    logits = torch.tensor([[math.log(0.5), math.log(0.5)], [math.log(0.25), math.log(0.75)]])
    assert kl_divergence(logits, wanted, 1.0).item() == pytest.approx((0 + math.log(4)) / 2, abs=1e-6)
    assert kl_divergence(2 * logits, wanted, 2.0).item() == pytest.approx(math.log(4) / 2, abs=1e-6)


def test_alignment_by_hand() -> None:
    token_map = TokenMap([[7], [8, 9], [5, 6, 4]])
    found = align(np.array([[0, 1, 0], [2, 0, 1]], dtype=np.int32), token_map, 5)
    assert found.ids.tolist() == [[7, 8, 9, 7, 0], [5, 6, 4, 7, 8]]
    assert found.labels.tolist() == [[-100, 8, 9, 7, -100], [-100, 6, 4, 7, 8]]
    # Token 1 of the second row ends beyond the window, so nobody is asked there.
    assert found.student_at.tolist() == [0, 2, 3, 5 + 2, 5 + 3]
    assert found.teacher_at.tolist() == [0, 1, 2, 3 + 0, 3 + 1]


def test_a_student_of_another_vocabulary_is_refused(bpe_model_dir: Path, student_dir: Path) -> None:
    with pytest.raises(ValueError, match="student"):
        map_tokens(load_tokenizer(bpe_model_dir), _without_a_byte(load_tokenizer(student_dir)))


def _without_a_byte(tokenizer: Tokenizer) -> Tokenizer:
    content = json.loads(tokenizer.to_str())
    content["model"]["merges"] = []
    content["model"]["vocab"] = {t: i for t, i in content["model"]["vocab"].items() if t != "a"}
    return Tokenizer.from_str(json.dumps(content))


@pytest.mark.parametrize("changes", [{}, {"hidden_weight": 1.0}, {"temperature": 2.0, "teacher_share": 1.0}])
def test_the_student_learns(
    tmp_path: Path, student_dir: Path, bpe_model_dir: Path, bpe_slice_dir: Path, changes: dict[str, float]
) -> None:
    spec = SPEC.model_copy(update=changes)
    notes = distill(spec, student_dir, bpe_model_dir, bpe_slice_dir, tmp_path / "target", tmp_path / "work")
    assert notes["dev_loss"] < notes["dev_loss_before"] - 0.1
    assert notes["steps"] == 12
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "target")
    assert (student.config.n_embd, student.config.vocab_size) == (16, 600)


def test_a_packed_student_recovers_and_stays_packed(tmp_path: Path, bpe_model_dir: Path, bpe_slice_dir: Path) -> None:
    weight_only = WeightOnly(method="rtn", bits=4, group_size=16)
    quantize_weights(bpe_model_dir, tmp_path / "packed", weight_only, bpe_slice_dir)
    spec = SPEC.model_copy(update={"learning_rate": 5e-3})
    paths = tmp_path / "packed", bpe_model_dir, bpe_slice_dir, tmp_path / "target", tmp_path / "work"
    notes = distill(spec, *paths)
    assert notes["dev_loss"] < notes["dev_loss_before"] - 0.05
    before, after = (load_file(tmp_path / name / PACKED_FILE) for name in ("packed", "target"))
    assert {name: value.dtype for name, value in before.items()} == {name: value.dtype for name, value in after.items()}
    integers = [name for name, value in before.items() if value.dtype in (torch.int8, torch.uint8)]
    assert integers and all(torch.equal(before[name], after[name]) for name in integers)
    engine = load_engine(Engine(name="torch"), tmp_path / "target", 1)
    assert np.isfinite(engine.logits([5, 6, 7])).all()


def test_a_student_taught_by_itself_has_nothing_to_learn_from_it(tmp_path: Path, bpe_model_dir: Path) -> None:
    torch.manual_seed(0)
    token_map = map_tokens(load_tokenizer(bpe_model_dir), load_tokenizer(bpe_model_dir))
    spec = SPEC.model_copy(update={"teacher_share": 1.0})
    pair = _Pair(spec, load_gpt2(bpe_model_dir), load_gpt2(bpe_model_dir), token_map)
    windows = np.random.default_rng(0).integers(0, 900, (2, 64)).astype(np.int32)
    assert pair.loss(windows).item() == pytest.approx(0, abs=2e-3)  # bf16, where the processor has it


def test_a_killed_distillation_resumes(
    tmp_path: Path, student_dir: Path, bpe_model_dir: Path, bpe_slice_dir: Path
) -> None:
    spec = SPEC.model_copy(update={"max_steps": 400, "checkpoint_minutes": 0.001})
    paths = [student_dir, bpe_model_dir, bpe_slice_dir, tmp_path / "target", tmp_path / "work"]
    with subprocess.Popen(program_command(TRAIN, spec.model_dump_json(), *paths)) as process:
        while _steps(tmp_path / "work" / "checkpoint.safetensors") < 3:
            assert process.poll() is None
        process.kill()
    assert not (tmp_path / "target").exists()
    resumed = spec.model_copy(update={"max_steps": None, "minutes": 1e-6, "checkpoint_minutes": 5.0})
    assert distill(resumed, *paths)["steps"] >= 3  # afresh it would be one


def _steps(checkpoint: Path) -> float:
    return float(load_file(checkpoint)["clock"][1]) if checkpoint.is_file() else 0.0
