"""Muon in single precision against torch's own, which is the same but for its rounding to bf16."""

import pytest
import torch

from slimline.tasks.training.muon import Float32Muon, orthogonalize

OPTIONS = {"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
COEFFICIENTS = (3.4445, -4.775, 2.0315)


@pytest.mark.parametrize("shape", [(24, 8), (8, 24), (16, 16)])
def test_steps_are_torchs(shape: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=random)
    weights = [torch.nn.Parameter(start.clone()) for _ in range(2)]
    optimizers = [torch.optim.Muon([weights[0]], **OPTIONS), Float32Muon([weights[1]], **OPTIONS)]
    for _ in range(5):
        gradient = torch.randn(shape, generator=random)
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    moved = (weights[0] - start).norm()
    assert (weights[0] - weights[1]).norm() < 0.02 * moved
    assert [state.keys() for state in optimizers[0].state_dict()["state"].values()] == [
        state.keys() for state in optimizers[1].state_dict()["state"].values()
    ]


def test_singular_values_are_near_one() -> None:
    matrix = torch.randn(12, 30, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrix, COEFFICIENTS, 5))
    assert ((values > 0.5) & (values < 1.5)).all()


def test_a_gradient_of_zeros_moves_nothing_but_the_decay() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 4))
    optimizer = Float32Muon([weight], **OPTIONS)
    weight.grad = torch.zeros(4, 4)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((4, 4), 1 - 0.02 * 0.1))
