"""What the criterion chooses on the model that ships is better than what chance chooses, for each kind of structure."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import importance
from benchmarks.importance import KINDS, OURS, cuts
from slimline.tasks.data.slices import prepare_slice
from slimline.tasks.models.bases import make_base
from slimline.tasks.models.loading import load_gpt2
from slimline.tasks.pruning.trials import TrialSetup, trial_setup
from slimline.tasks.specs import BundledBase, Data, Slim


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrialSetup]:
    slice_dir, model_dir = tmp_path_factory.mktemp("slice"), tmp_path_factory.mktemp("model")
    prepare_slice(Data(train_files=40, dev_files=8, samples=1), slice_dir)
    make_base(BundledBase(), slice_dir, model_dir)
    return model_dir, trial_setup(Slim(sparsity=0.5, calibration_windows=8, trial_steps=0), slice_dir, model_dir)


@pytest.mark.parametrize("kind", KINDS)
def test_the_criterion_is_better_than_chance(
    kind: str, base: tuple[Path, TrialSetup], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importance, "SEEDS", 2)
    model_dir, setup = base
    model = load_gpt2(model_dir)
    losses = {cut.criterion: setup.loss(cut.model) for cut in cuts(model, kind, setup, ("random", OURS))}
    chance = [loss for criterion, loss in losses.items() if criterion != OURS]
    # The best layer is among those of chance, which tries every one.
    assert losses[OURS] <= min(chance)
    if kind != "layers":
        whole = setup.loss(model)
        assert losses[OURS] - whole < 0.5 * (min(chance) - whole)
