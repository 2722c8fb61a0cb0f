"""Optimal brain surgeon for groups of inputs of a linear map: which to remove, and how the others take over their part.

For outputs x W + b, with x [inputs], the squared error that removing a group causes is smallest if the other rows of W
change so as to make up for it (Hassibi & Stork 1993). With the covariance H of x, that least error is
tr(W_g^T ((H^-1)_gg)^-1 W_g): the importance of the group (Frantar & Alistarh 2022, arXiv:2208.11580, eq. 3; ZipLM,
arXiv:2302.04089, eq. 2). Groups are removed one at a time, since the removal of one changes the importance of others:
of two equal ones each is superfluous, but not both. The mean of what is removed goes into the bias b.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from slimline.tasks.pruning.moments import Moments

# GPTQ's damping, a share of the mean variance: an inverse exists, and few samples do not move weights far.
_DAMPING = 1e-2
# With it even what others say exactly costs something to remove, the more the larger its weights are. So that goes
# before, damped for rounding only; together it may change the outputs by the share _EXACT of their variance.
_ROUNDING = 1e-12
_EXACT = 1e-7


class Elimination(NamedTuple):
    """Groups in the order in which they are removed, and the squared error of the outputs that each removal adds."""

    order: list[int]
    errors: list[float]

    def kept(self, count: int, groups: int) -> Tensor:
        """The groups that remain, ascending, if only `count` of all `groups` remain."""
        return torch.tensor(sorted(set(range(groups)) - set(self.order[: groups - count])), dtype=torch.long)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Each step is so short that a second thread does not help, and on busy processors it is waited for.

    Of 1,024 inputs 768 took 0.34 s, with two threads 0.36; beside a training 0.4 s, and 12.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
def eliminate(moments: Moments, weight: Tensor, size: int, count: int, damping: float = _DAMPING) -> Elimination:
    """Choose the `count` groups of `size` neighbouring inputs whose removal changes the outputs least.

    Only the rows of the inverse that belong to removed inputs are ever formed: with R removed of N inputs this takes
    N R^2 operations in place of N^2 R.

    Args:
        moments: Of the inputs.
        weight: [inputs, outputs].
        size: Inputs of one group.
        count: Groups to remove, fewer than there are.
        damping: Share of the mean variance that is added to each input's.
    """
    inputs, outputs = weight.shape
    groups = inputs // size
    inverse = torch.linalg.inv(damped(moments.covariance(), damping))
    blocks = _diagonal_blocks(inverse, size)
    weight = weight.detach().double().clone()
    factors = torch.empty(count * size, inputs, dtype=torch.float64)
    alive = torch.ones(groups, dtype=torch.bool)
    order, errors = [], []
    for number in range(count):
        solved = _solve(blocks, weight.view(groups, size, outputs))
        scores = (weight.view_as(solved) * solved).sum((1, 2)).masked_fill(~alive, torch.inf)
        group = int(scores.argmin())
        done, own = slice(0, number * size), slice(group * size, (group + 1) * size)
        column = inverse[:, own] - factors[done].T @ factors[done, own]
        # Of the inverse's block its Cholesky factor L: the update is u u^T with u = column L^-T.
        update = torch.linalg.solve_triangular(torch.linalg.cholesky(blocks[group]), column.T, upper=False)
        weight -= column @ solved[group]
        weight[own] = 0.0
        factors[number * size : (number + 1) * size] = update
        parts = update.view(size, groups, size).permute(1, 2, 0)
        blocks -= parts @ parts.mT
        blocks[group] = torch.eye(size, dtype=torch.float64)
        alive[group] = False
        order.append(group)
        errors.append(float(scores[group]))
    return Elimination(order, errors)


def absorb(moments: Moments, weight: Tensor, bias: Tensor, size: int) -> Repaired:
    """The map of the same outputs in which the rows of every superfluous group of inputs are zero.

    Superfluous is what is constant, and what others say exactly: those take over its part.

    Args:
        moments: Of the inputs.
        weight: [inputs, outputs].
        bias: [outputs].
        size: Inputs of one group.
    """
    kept = members(_independent(moments.covariance(), weight.detach().double(), size), size)
    solved, shifted = repair(moments, weight, bias, kept, _ROUNDING)
    return Repaired(torch.zeros_like(weight).index_copy(0, kept, solved), shifted)


@_one_thread()
def _independent(covariance: Tensor, weight: Tensor, size: int) -> Tensor:
    """The groups that say all that is said, ascending: a Cholesky factorization whose pivots are groups.

    The next pivot is always the group with the most variance that those before do not explain. What is left out would
    add the share `_EXACT` of the outputs' variance at most.
    """
    groups = len(weight) // size
    rows, limit = weight.view(groups, size, -1), _EXACT * float((weight * (covariance @ weight)).sum())
    unexplained = _diagonal_blocks(covariance, size)
    factors = torch.empty_like(covariance)
    done, pivots = 0, torch.zeros(groups, dtype=torch.bool)
    while not pivots.all() and float((rows * (unexplained @ rows)).sum((1, 2))[~pivots].sum()) > limit:
        variances = unexplained.diagonal(dim1=1, dim2=2).sum(1)
        group = int(variances.masked_fill(pivots, -torch.inf).argmax())
        own = slice(group * size, (group + 1) * size)
        column = covariance[:, own] - factors[:done].T @ factors[:done, own]
        values, vectors = torch.linalg.eigh(unexplained[group])
        is_real = values > _ROUNDING * values[-1]
        update = (column @ vectors[:, is_real] / values[is_real].sqrt()).T
        factors[done : done + len(update)] = update
        parts = update.view(len(update), groups, size).permute(1, 2, 0)
        unexplained = unexplained - parts @ parts.mT
        done += len(update)
        pivots[group] = True
    return pivots.nonzero()[:, 0]


def _diagonal_blocks(matrix: Tensor, size: int) -> Tensor:
    """[groups, size, size]."""
    groups = len(matrix) // size
    return matrix.view(groups, size, groups, size).diagonal(dim1=0, dim2=2).movedim(-1, 0).clone()


def members(groups: Tensor, size: int) -> Tensor:
    """The inputs of groups of `size` neighbouring ones, ascending if the groups are."""
    return (groups[:, None] * size + torch.arange(size)).flatten()


class Repaired(NamedTuple):
    """A linear map of the inputs that remain: weight [kept, outputs] and bias [outputs]."""

    weight: Tensor
    bias: Tensor


def repair(moments: Moments, weight: Tensor, bias: Tensor, kept: Tensor, damping: float = _DAMPING) -> Repaired:
    """The map of the inputs `kept` that is closest to the whole map, by least squares on the calibration windows."""
    whole, covariance = weight.detach().double(), damped(moments.covariance(), damping)
    solved = torch.linalg.solve(covariance[kept][:, kept], covariance[kept] @ whole)
    shift = moments.mean @ whole - moments.mean[kept] @ solved
    return Repaired(solved.to(weight.dtype), (bias.detach().double() + shift).to(bias.dtype))


def damped(covariance: Tensor, damping: float = _DAMPING) -> Tensor:
    """The covariance with a share of its mean variance added to its diagonal, which makes it positive definite.

    Rounding can leave eigenvalues below zero: then the share grows until none is.

    Raises:
        ValueError: it is not finite.
    """
    if not covariance.isfinite().all():
        raise ValueError("slim: activations on the calibration windows are not finite; the model is damaged")
    diagonal = torch.eye(len(covariance), dtype=covariance.dtype)
    diagonal *= damping * covariance.diagonal().mean() + torch.finfo(torch.float64).tiny
    while torch.linalg.cholesky_ex(covariance + diagonal).info:
        diagonal *= 10
    return covariance + diagonal


def _solve(blocks: Tensor, weight: Tensor) -> Tensor:
    return weight / blocks if blocks.shape[-1] == 1 else torch.linalg.solve(blocks, weight)
