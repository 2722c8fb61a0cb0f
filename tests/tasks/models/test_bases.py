"""Base models of every source, and training one from random weights."""

import json
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from slimline.storage.paths import PREBUILT
from slimline.tasks.data.parquet import write_rows
from slimline.tasks.data.samples import CodeFile
from slimline.tasks.data.tokenizer import load_tokenizer, special_tokens, stop_ids
from slimline.tasks.measurement.size import count_parameters, disk_size
from slimline.tasks.models.bases import make_base, unpack_prebuilt
from slimline.tasks.specs import Base, BundledBase, HubBase, PathBase, PrebuiltModel, Pretrain, RandomBase
from slimline.tasks.training.pretrain import pretrain
from slimline.tasks.training.training_loop import device_name, learning_rate_share, mean_loss, training_device


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small GPT-2 with a tokenizer that knows nothing of PY150."""
    directory = tmp_path / "checkpoint"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(["x = 1"], trainers.BpeTrainer(vocab_size=260, initial_alphabet=alphabet))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(directory)
    GPT2LMHeadModel(GPT2Config(vocab_size=260, n_embd=16, n_layer=1, n_head=2, n_positions=64)).save_pretrained(
        directory
    )
    return directory


def made(base: Base, target: Path, slice_dir: Path | None = None) -> dict[str, object]:
    target.mkdir(parents=True, exist_ok=True)
    return make_base(base, slice_dir or target, target)


def test_the_bundled_model_is_of_seven_million_parameters(tmp_path: Path) -> None:
    notes = made(BundledBase(), tmp_path)
    assert notes == {"parameters": 6_967_296, "random_weights": False}
    assert AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.float32


@pytest.mark.parametrize("source", ["path", "hub"])
def test_a_foreign_checkpoint_learns_codexglues_tokens(checkpoint: Path, tmp_path: Path, source: str) -> None:
    base = PathBase(directory=checkpoint) if source == "path" else HubBase(id=str(checkpoint))
    known = Tokenizer.from_file(str(checkpoint / "tokenizer.json")).get_vocab_size()
    made(base, tmp_path / "base")
    tokenizer = load_tokenizer(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert len(stop_ids(tokenizer)) == 2
    assert model.config.vocab_size == tokenizer.get_vocab_size() == known + len(special_tokens())
    ours = load_file(tmp_path / "base" / "model.safetensors")["transformer.wte.weight"]
    theirs = load_file(checkpoint / "model.safetensors")["transformer.wte.weight"]
    assert torch.equal(ours[:known], theirs[:known])


def test_another_architecture_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(ValueError, match=r"model_type.*'bert'.*'gpt2'"):
        made(PathBase(directory=checkpoint), tmp_path / "base")
    with pytest.raises(ValueError, match=r"base\.directory.*config\.json"):
        made(PathBase(directory=tmp_path), tmp_path / "base")


def test_codegpt_smalls_shape_counts_as_published(tmp_path: Path) -> None:
    notes = made(RandomBase(architecture="codegpt-small"), tmp_path)
    assert notes["random_weights"] is True
    assert count_parameters(tmp_path).total / 1e6 == pytest.approx(124.24, abs=0.005)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.safetensors")) / 1e6 == pytest.approx(497, abs=1)


def test_random_weights_follow_their_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        made(RandomBase(architecture="tiny", seed=seed), tmp_path / name)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
    assert disk_size(tmp_path / "a").raw_mb > 1


# --------------------------------------------------------------------------------------------------------- pre-training


@pytest.fixture
def slice_dir(tmp_path: Path) -> Path:
    """A language of one rule: what follows is always the same."""
    directory = tmp_path / "slice"
    directory.mkdir()
    files = [CodeFile(f"f{n}", "<s> " + "alpha = beta ( gamma ) <EOL> " * 60 + "</s>") for n in range(12)]
    write_rows(directory / "train.parquet", files)
    write_rows(directory / "dev.parquet", files[:4])
    return directory


SPEC = Pretrain(minutes=0.15, window=64, batch_size=4, learning_rate=0.01, muon_learning_rate=0.01)


@pytest.fixture
def steady_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by which every step takes 0.03 s, however busy the machine is."""
    ticks = count(step=0.03)
    monkeypatch.setattr("slimline.tasks.training.training_loop.time", SimpleNamespace(monotonic=lambda: next(ticks)))


@pytest.mark.usefixtures("steady_clock")
def test_pretraining_learns_and_resumes(slice_dir: Path, tmp_path: Path) -> None:
    base, work = tmp_path / "base", tmp_path / "work"
    made(RandomBase(architecture="tiny"), base)
    saving = SPEC.model_copy(update={"checkpoint_minutes": 0.01})
    (tmp_path / "first").mkdir()
    first = pretrain(saving, base, slice_dir, tmp_path / "first", work)
    assert first["dev_loss"] < 4 < np.log(8192)
    assert (work / "checkpoint.safetensors").exists()
    longer = saving.model_copy(update={"minutes": 0.2})
    (tmp_path / "second").mkdir()
    second = pretrain(longer, base, slice_dir, tmp_path / "second", work)
    assert (first["steps"], second["steps"]) == (pytest.approx(300, abs=2), pytest.approx(400, abs=2))
    assert second["dev_loss"] < first["dev_loss"] + 0.1
    assert mean_loss(AutoModelForCausalLM.from_pretrained(tmp_path / "second"), np.zeros((1, 8), np.int32), 1) > 0


def test_a_training_ends_after_its_steps_and_says_what_it_ran_on(slice_dir: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    made(RandomBase(architecture="tiny"), base)
    spec = SPEC.model_copy(update={"minutes": 60.0, "max_steps": 4})
    (tmp_path / "model").mkdir()
    notes = pretrain(spec, base, slice_dir, tmp_path / "model", tmp_path / "work")
    assert (notes["steps"], notes["tokens"]) == (4, 4 * 4 * 64)
    assert notes["trained_on"] == [device_name(training_device())]


def test_the_rate_warms_up_holds_and_falls_to_nothing() -> None:
    assert learning_rate_share(0.0, 0) < 0.02
    assert learning_rate_share(0.4, 1000) == learning_rate_share(0.5, 1000) == 1.0
    assert learning_rate_share(0.75, 1000) == pytest.approx(0.5)
    assert learning_rate_share(1.0, 1000) == 0.0


def test_the_prebuilt_form_is_of_the_bundled_model_only(checkpoint: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    made(BundledBase(), base)
    notes = unpack_prebuilt(base, tmp_path / "slim", PrebuiltModel())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "slim")
    assert sum(weight.numel() for weight in model.parameters()) == notes["parameters"] < 0.4 * 6_967_296
    assert model.dtype == torch.float32 and notes["made_by"]["step"]["step"] == "weight-only"
    with pytest.raises(ValueError, match=r"prebuilt.*bundled"):
        unpack_prebuilt(checkpoint, tmp_path / "other", PrebuiltModel())


def test_every_form_that_ships_has_a_name_and_no_other() -> None:
    for form in PREBUILT.iterdir():
        assert PrebuiltModel.model_validate({"name": form.name}).name == form.name
    with pytest.raises(ValueError, match=r"(?s)name.*'slim-75'.*'thin'"):
        PrebuiltModel.model_validate({"name": "thin"})
