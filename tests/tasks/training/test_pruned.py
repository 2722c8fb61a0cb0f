from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from slimline.tasks.models.loading import load_gpt2, save_gpt2
from slimline.tasks.pruning.group_lasso import group_lasso
from slimline.tasks.specs import Distill, FineTune, GroupLasso
from slimline.tasks.training.distill import distill
from slimline.tasks.training.finetune import fine_tune
from slimline.tasks.training.pruned import PrunedWeights


@pytest.fixture(scope="module")
def pruned_dir(bpe_model_dir: Path, bpe_slice_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("lasso")
    spec = GroupLasso(sparsity=0.5, window=64, batch_size=2, max_steps=6)
    group_lasso(spec, bpe_model_dir, bpe_slice_dir, directory / "pruned", directory / "work")
    return directory / "pruned"


def _zeros(directory: Path) -> dict[str, torch.Tensor]:
    """Where the matrices are zero, but not -0."""
    matrices = {name: weight for name, weight in load_gpt2(directory).named_parameters() if weight.ndim == 2}
    return {name: (weight == 0) & ~weight.signbit() for name, weight in matrices.items()}


def _changed(before: Path, after: Path) -> bool:
    pairs = zip(load_gpt2(before).parameters(), load_gpt2(after).parameters(), strict=True)
    return any(not torch.equal(old, new) for old, new in pairs)


def test_distillation_keeps_what_is_pruned(
    tmp_path: Path, pruned_dir: Path, bpe_model_dir: Path, bpe_slice_dir: Path
) -> None:
    spec = Distill(minutes=10, max_steps=4, window=64, batch_size=2)
    distill(spec, pruned_dir, bpe_model_dir, bpe_slice_dir, tmp_path / "target", tmp_path / "work")
    assert _changed(pruned_dir, tmp_path / "target")
    after = _zeros(tmp_path / "target")
    assert all(torch.equal(zeros, after[name]) for name, zeros in _zeros(pruned_dir).items())


def test_fine_tuning_keeps_what_is_pruned(tmp_path: Path, pruned_dir: Path, bpe_slice_dir: Path) -> None:
    spec = FineTune(window=64, batch_size=2, max_steps=4, learning_rate=1e-2)
    fine_tune(spec, pruned_dir, bpe_slice_dir, tmp_path / "target", tmp_path / "work")
    assert _changed(pruned_dir, tmp_path / "target")
    after = _zeros(tmp_path / "target")
    assert all(torch.equal(zeros, after[name]) for name, zeros in _zeros(pruned_dir).items())


def test_a_matrix_of_zeros_alone_is_trained(tmp_path: Path, bpe_model_dir: Path, bpe_slice_dir: Path) -> None:
    model = load_gpt2(bpe_model_dir)
    with torch.no_grad():
        model.transformer.h[0].mlp.c_proj.weight.zero_()
    (tmp_path / "zeros").mkdir()
    save_gpt2(model, bpe_model_dir, tmp_path / "zeros")
    spec = FineTune(window=64, batch_size=2, max_steps=2, learning_rate=1e-2)
    fine_tune(spec, tmp_path / "zeros", bpe_slice_dir, tmp_path / "target", tmp_path / "work")
    assert not _zeros(tmp_path / "target")["transformer.h.0.mlp.c_proj.weight"].all()


def test_few_zeros_are_none_of_pruning() -> None:
    layer = nn.Linear(10, 10, bias=False)
    with torch.no_grad():
        layer.weight[0, 0] = 0.0
        pruned = PrunedWeights(layer)
        layer.weight[0, 0] = 1.0
    pruned.to_zero()
    assert layer.weight[0, 0] == 1.0
