"""The optimal brain surgeon against answers that are known, or found by trying everything."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slimline.tasks.pruning.brain_surgeon import absorb, damped, eliminate, repair
from slimline.tasks.pruning.moments import Moments

ROWS, OUTPUTS = 400, 3
SLIGHT = 1e-4  # damping that leaves the answers what they are by hand


def moments(inputs: Tensor) -> Moments:
    return Moments(inputs.mean(0), inputs.T @ inputs / len(inputs))


def correlated(size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    independent = torch.randn(ROWS, size, generator=generator, dtype=torch.float64)
    mixed = independent @ torch.randn(size, size, generator=generator, dtype=torch.float64)
    return mixed + torch.randn(size, generator=generator, dtype=torch.float64)


def weights(size: int, seed: int) -> Tensor:
    return torch.randn(size, OUTPUTS, generator=torch.Generator().manual_seed(seed + 1000))


def error(inputs: Tensor, weight: Tensor, kept: Tensor) -> float:
    """Mean squared error of the outputs after the repair."""
    repaired = repair(moments(inputs), weight, torch.zeros(OUTPUTS), kept, SLIGHT)
    outputs = inputs[:, kept] @ repaired.weight.double() + repaired.bias.double()
    return float((inputs @ weight.double() - outputs).square().sum(1).mean())


@given(st.integers(2, 6), st.sampled_from([1, 2]), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_each_removal_is_the_best_one_and_its_error_is_what_is_measured(groups: int, size: int, seed: int) -> None:
    inputs, weight = correlated(groups * size, seed), weights(groups * size, seed)
    found = eliminate(moments(inputs), weight, size, groups - 1, SLIGHT)
    removed: list[int] = []
    damping = 2e-3 * float((inputs @ weight.double()).square().sum(1).mean())
    for group, total in zip(found.order, torch.tensor(found.errors).cumsum(0), strict=True):
        rest = [other for other in range(groups) if other not in removed]
        errors = {other: error(inputs, weight, indices([one for one in rest if one != other], size)) for other in rest}
        assert errors[group] == pytest.approx(min(errors.values()), rel=0.02, abs=damping)
        assert float(total) == pytest.approx(errors[group], rel=0.02, abs=damping)
        removed.append(group)


def indices(groups: list[int], size: int) -> Tensor:
    return torch.tensor([group * size + offset for group in groups for offset in range(size)], dtype=torch.long)


def test_of_two_equal_inputs_one_goes_at_no_cost_and_the_other_takes_over() -> None:
    inputs = correlated(4, 0)
    inputs[:, 3] = inputs[:, 1]
    weight = weights(4, 0)
    weight[[1, 3]] *= 10
    found = eliminate(moments(inputs), weight, 1, 2, SLIGHT)
    assert found.order[0] in (1, 3)
    assert found.order[1] not in (1, 3)
    kept = found.kept(3, 4)
    assert error(inputs, weight, kept) < 1e-3 * float((inputs @ weight.double()).square().sum(1).mean())


def test_what_is_constant_goes_first_and_into_the_bias() -> None:
    inputs = correlated(4, 3)
    inputs[:, 2] = 5.0
    weight = weights(4, 3)
    found = eliminate(moments(inputs), weight, 1, 1)
    assert found.order == [2]
    repaired = repair(moments(inputs), weight, torch.zeros(OUTPUTS), found.kept(3, 4))
    torch.testing.assert_close(repaired.bias, 5.0 * weight[2], atol=1e-2, rtol=1e-2)


def test_dead_inputs_go_first() -> None:
    inputs = correlated(5, 5)
    inputs[:, [0, 4]] = 0.0
    assert sorted(eliminate(moments(inputs), weights(5, 5), 1, 2).order) == [0, 4]


def test_greedy_is_close_to_the_best_of_all_subsets() -> None:
    inputs, weight = correlated(8, 7), weights(8, 7)
    found = eliminate(moments(inputs), weight, 1, 4, SLIGHT)
    best = min(error(inputs, weight, torch.tensor(kept)) for kept in combinations(range(8), 4))
    assert error(inputs, weight, found.kept(4, 8)) <= 1.5 * best


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_what_others_say_exactly_is_merged_however_large_its_weights(size: int, scale: float) -> None:
    """Of 6 groups: 1 repeats 0 and nearly takes back its part, 3 is constant, 4 is a sum of two, 5 is always zero."""
    inputs = correlated(6 * size, 11)
    groups = [slice(group * size, (group + 1) * size) for group in range(6)]
    inputs[:, groups[1]] = inputs[:, groups[0]]
    inputs[:, groups[3]] = 7.0
    inputs[:, groups[4]] = inputs[:, groups[0]] - 2 * inputs[:, groups[2]]
    inputs[:, groups[5]] = 0.0
    weight, bias = weights(6 * size, 11), torch.zeros(OUTPUTS)
    weight[groups[1]] -= scale * weight[groups[0]]
    weight[groups[0]] += scale * weight[groups[0]]
    for group in (3, 5):
        weight[groups[group]] *= scale
    found = absorb(moments(inputs), weight, bias, size)
    assert sum(bool(found.weight[own].any()) for own in groups) == 2
    whole = inputs @ weight.double()
    torch.testing.assert_close(inputs @ found.weight.double() + found.bias.double(), whole, atol=2e-3, rtol=1e-3)
    left = eliminate(moments(inputs), found.weight, size, 4)
    assert max(left.errors) == 0.0


def test_of_outputs_that_are_constant_nothing_is_needed() -> None:
    inputs = correlated(4, 17)
    silent = absorb(moments(inputs), torch.zeros(4, OUTPUTS), torch.ones(OUTPUTS), 1)
    assert not silent.weight.any() and torch.equal(silent.bias, torch.ones(OUTPUTS))
    constant = torch.full((ROWS, 4), 3.0, dtype=torch.float64)
    weight = weights(4, 17)
    found = absorb(moments(constant), weight, torch.zeros(OUTPUTS), 2)
    assert not found.weight.any()
    torch.testing.assert_close(found.bias, 3 * weight.sum(0))


def test_what_nothing_else_says_is_not_merged() -> None:
    inputs, weight = correlated(6, 13), weights(6, 13)
    found = absorb(moments(inputs), weight, torch.zeros(OUTPUTS), 1)
    torch.testing.assert_close(found.weight, weight, atol=1e-6, rtol=1e-6)


def test_what_rounding_left_below_zero_is_damped_away() -> None:
    values = torch.cat([torch.linspace(0.1, 27.0, 40), torch.full((24,), -1.2e-3)]).double()
    basis = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).double()).Q
    rounded = basis @ values.diag() @ basis.T
    assert torch.linalg.eigvalsh(damped(rounded))[0] > 0
    with pytest.raises(ValueError, match="not finite"):
        damped(torch.full((2, 2), torch.nan).double())
    assert torch.equal(damped(torch.eye(3).double()), (1 + 1e-2) * torch.eye(3).double())
