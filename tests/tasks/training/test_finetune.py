from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, TrainerCallback

from slimline.tasks.data.packing import pack
from slimline.tasks.models.loading import load_gpt2
from slimline.tasks.specs import FineTune
from slimline.tasks.training.finetune import fine_tune, micro_batch, total_steps
from slimline.tasks.training.resume import last_checkpoint
from tests.command import program_command
from tests.tasks.tiny import TRAIN, kill_after_first_checkpoint, write_model, write_slice

SPEC = FineTune(window=16, batch_size=4, learning_rate=1e-2, epochs=1, max_steps=12)


@pytest.fixture(scope="module")
def tokenizer(model_dir: Path) -> Tokenizer:
    return Tokenizer.from_file(str(model_dir / "tokenizer.json"))


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return dict(load_gpt2(directory).named_parameters())


class CheckpointEveryStep(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_save = True


class StopAt(CheckpointEveryStep):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        super().on_step_end(args, state, control)
        if state.global_step == self.step:
            control.should_training_stop = True


# ------------------------------------------------------------------------------------------------------------- packing


def test_pack_joins_files_and_drops_the_ragged_end(tokenizer: Tokenizer) -> None:
    codes = ["<s> w1 w2 </s>", "<s> w3 </s>"]
    stream = [i for code in codes for i in tokenizer.encode(code, add_special_tokens=False).ids]
    windows = pack(codes, tokenizer, 3)
    assert windows.dtype == np.int32
    assert windows.tolist() == [stream[:3], stream[3:6]]
    assert len(stream) == 7


def test_pack_does_not_depend_on_how_files_are_batched(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = [f"<s> w{i % 7} w{i % 5} </s>" for i in range(10)]
    whole = pack(codes, tokenizer, 4)
    monkeypatch.setattr("slimline.tasks.data.packing._FILES_AT_ONCE", 3)
    assert np.array_equal(pack(iter(codes), tokenizer, 4), whole)


@pytest.mark.parametrize(("codes", "window", "message"), [([], 4, "only 0"), (["<s> w1 </s>"], 4, "only 3")])
def test_pack_refuses_less_than_a_window(tokenizer: Tokenizer, codes: list[str], window: int, message: str) -> None:
    with pytest.raises(ValueError, match=rf"window.* 4 .*{message}"):
        pack(codes, tokenizer, window)


def test_pack_refuses_a_window_of_nothing(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="window: 0"):
        pack(["<s> w1 </s>"], tokenizer, 0)


# --------------------------------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize(
    ("epochs", "max_steps", "steps"), [(1, None, 3), (2, None, 6), (0.5, None, 2), (1, 2, 2), (1, 100, 3)]
)
def test_steps_are_whole_epochs_or_fewer(epochs: float, max_steps: int | None, steps: int) -> None:
    assert total_steps(FineTune(batch_size=4, epochs=epochs, max_steps=max_steps), windows=9) == steps


@pytest.mark.parametrize(
    ("batch", "window", "vocabulary", "micro"),
    [(16, 512, 8192, 16), (16, 512, 50_001, 2), (7, 512, 50_001, 1), (12, 1024, 16_384, 4), (3, 1024, 10**6, 1)],
)
def test_micro_batches_divide_the_batch_and_bound_the_logits(
    batch: int, window: int, vocabulary: int, micro: int
) -> None:
    assert micro_batch(batch, window, vocabulary) == micro


# ------------------------------------------------------------------------------------------------------------ training


def test_learns_and_writes_a_standard_checkpoint(model_dir: Path, slice_dir: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    notes = fine_tune(SPEC, model_dir, slice_dir, target, tmp_path / "work")
    curve: Any = notes["loss_curve"]
    assert [step for step, _ in curve] == list(range(1, 13))
    assert curve[-1][1] < 0.95 * curve[0][1]
    assert notes["steps"] == 12
    assert notes["tokens"] == 12 * 4 * 16
    assert notes["dev_loss"] < curve[0][1]
    assert notes["train_tokens_per_s"] > 0
    json.dumps(notes, allow_nan=False)
    reloaded = AutoModelForCausalLM.from_pretrained(target)
    assert {weight.dtype for weight in reloaded.parameters()} == {torch.float32}
    assert (target / "tokenizer.json").read_bytes() == (model_dir / "tokenizer.json").read_bytes()
    assert (target / "tokenizer_config.json").is_file()


def test_keeps_the_models_own_configuration(model_dir: Path, slice_dir: Path, tmp_path: Path) -> None:
    fine_tune(SPEC.model_copy(update={"max_steps": 1}), model_dir, slice_dir, tmp_path / "target", tmp_path / "work")
    before, after = (json.loads((d / "config.json").read_text()) for d in (model_dir, tmp_path / "target"))
    assert after == before


def test_accumulated_micro_batches_train_as_one(
    model_dir: Path, slice_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slimline.tasks.training.finetune.has_bf16", lambda _: False)
    spec = SPEC.model_copy(update={"max_steps": 4})
    whole = fine_tune(spec, model_dir, slice_dir, tmp_path / "a", tmp_path / "work-a")
    monkeypatch.setattr("slimline.tasks.training.finetune._LOGITS_AT_ONCE", 1)
    split = fine_tune(spec, model_dir, slice_dir, tmp_path / "b", tmp_path / "work-b")
    assert split["dev_loss"] == pytest.approx(whole["dev_loss"], rel=1e-3)


def test_resumes_to_the_same_weights(model_dir: Path, slice_dir: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    straight = fine_tune(SPEC, model_dir, slice_dir, tmp_path / "straight", tmp_path / "work-straight")
    fine_tune(SPEC, model_dir, slice_dir, tmp_path / "stopped", work, [StopAt(5)])
    unfinished = work / "checkpoint-9"
    unfinished.mkdir()
    (unfinished / "model.safetensors").write_bytes(b"cut off")
    assert last_checkpoint(work) == work / "checkpoint-5"
    assert not unfinished.exists()
    resumed = fine_tune(SPEC, model_dir, slice_dir, tmp_path / "resumed", work)
    assert (resumed["steps"], resumed["tokens"]) == (straight["steps"], straight["tokens"])
    assert resumed["loss_curve"] == pytest.approx(np.array(straight["loss_curve"]), rel=1e-3)
    expected = weights(tmp_path / "straight")
    for name, weight in weights(tmp_path / "resumed").items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-5)


def test_checkpoints_by_the_clock_but_not_after_the_last_step(
    model_dir: Path, slice_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slimline.tasks.training.finetune._CHECKPOINT_MINUTES", 0.0)
    spec, work = SPEC.model_copy(update={"max_steps": 4}), tmp_path / "work"
    fine_tune(spec, model_dir, slice_dir, tmp_path / "target", work)
    assert sorted(path.name for path in work.iterdir()) == ["checkpoint-2", "checkpoint-3"]
    assert last_checkpoint(work) == work / "checkpoint-3"


@pytest.mark.e2e
def test_survives_sigkill(model_dir: Path, slice_dir: Path, tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"epochs": 100, "max_steps": 60})
    target, work = tmp_path / "target", tmp_path / "work"
    command = program_command(TRAIN, spec.model_dump_json(), model_dir, slice_dir, target, work)
    kill_after_first_checkpoint(command, work)
    assert not target.exists()
    notes = fine_tune(spec, model_dir, slice_dir, target, work)
    assert notes["steps"] == 60
    assert notes["tokens"] == 60 * 4 * 16
    assert np.isfinite(load_gpt2(target).lm_head.weight.detach().numpy()).all()


# ------------------------------------------------------------------------------------------------------------ bad input


def test_refuses_an_empty_slice(model_dir: Path, slice_dir: Path, tmp_path: Path) -> None:
    empty = pa.table({"name": pa.array([], pa.string()), "code": pa.array([], pa.string())})
    pq.write_table(empty, tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"train\.parquet"):
        fine_tune(SPEC, model_dir, tmp_path, tmp_path / "target", tmp_path / "work")


def test_refuses_a_slice_smaller_than_a_window(model_dir: Path, tmp_path: Path) -> None:
    write_slice(tmp_path, dev_files=0)
    pq.write_table(pa.table({"name": ["a"], "code": ["<s> w1 </s>"]}), tmp_path / "dev.parquet")
    with pytest.raises(ValueError, match=r"dev\.parquet.*window.*16 .*3"):
        fine_tune(SPEC, model_dir, tmp_path, tmp_path / "target", tmp_path / "work")


def test_refuses_a_window_longer_than_the_model(model_dir: Path, slice_dir: Path, tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"window": 33})
    with pytest.raises(ValueError, match=r"window.*33.*32"):
        fine_tune(spec, model_dir, slice_dir, tmp_path / "target", tmp_path / "work")


def test_refuses_another_architecture(slice_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match=r"model_type.*'llama'.*'gpt2'"):
        fine_tune(SPEC, tmp_path, slice_dir, tmp_path / "target", tmp_path / "work")


def test_refuses_weights_of_another_configuration(slice_dir: Path, tmp_path: Path) -> None:
    write_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"n_layer": 3}))
    with pytest.raises(ValueError, match=r"config\.json.*h\.2\."):
        fine_tune(SPEC, tmp_path, slice_dir, tmp_path / "target", tmp_path / "work")


def test_refuses_a_tokenizer_larger_than_the_vocabulary(slice_dir: Path, tmp_path: Path) -> None:
    write_model(tmp_path, words=40)
    write_model(tmp_path, words=30, tokenizer=False)
    with pytest.raises(ValueError, match=r"tokenizer\.json.*43.*vocab_size.*33"):
        fine_tune(SPEC, tmp_path, slice_dir, tmp_path / "target", tmp_path / "work")


def test_says_when_training_diverged(model_dir: Path, slice_dir: Path, tmp_path: Path) -> None:
    class Poison(TrainerCallback):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
            with torch.no_grad():
                model.transformer.ln_f.bias.fill_(float("nan"))

    with pytest.raises(FloatingPointError, match="learning_rate"):
        fine_tune(SPEC, model_dir, slice_dir, tmp_path / "target", tmp_path / "work", [Poison()])
    assert not (tmp_path / "target").exists()
