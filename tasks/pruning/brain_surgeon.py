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

# As GPTQ's damping: without it a covariance of fewer samples than inputs, or with inputs of zeros, has no inverse.
_DAMPING = 1e-4


class Elimination(NamedTuple):
    """Groups in the order in which they are removed, and the squared error of the outputs that each removal adds."""

    order: list[int]
    errors: list[float]

    def kept(self, count: int, groups: int) -> Tensor:
        """The groups that remain, ascending, if only `count` of all `groups` remain."""
        return torch.tensor(sorted(set(range(groups)) - set(self.order[: groups - count])), dtype=torch.long)


def eliminate(moments: Moments, weight: Tensor, size: int, count: int) -> Elimination:
    """Choose the `count` groups of `size` neighbouring inputs whose removal changes the outputs least.

    Only the rows of the inverse that belong to removed inputs are ever formed: with R removed of N inputs this takes
    N R^2 operations in place of N^2 R.

    Args:
        moments: Of the inputs.
        weight: [inputs, outputs].
        size: Inputs of one group.
        count: Groups to remove, fewer than there are.
    """
    with _one_thread():
        return _eliminate(moments, weight, size, count)


def _eliminate(moments: Moments, weight: Tensor, size: int, count: int) -> Elimination:
    inputs, outputs = weight.shape
    groups = inputs // size
    inverse = torch.linalg.inv(damped(moments.covariance()))
    blocks = inverse.view(groups, size, groups, size).diagonal(dim1=0, dim2=2).movedim(-1, 0).clone()
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


class Repaired(NamedTuple):
    """A linear map of the inputs that remain: weight [kept, outputs] and bias [outputs]."""

    weight: Tensor
    bias: Tensor


def repair(moments: Moments, weight: Tensor, bias: Tensor, kept: Tensor) -> Repaired:
    """The map of the inputs `kept` that is closest to the whole map, by least squares on the calibration windows."""
    whole, covariance = weight.detach().double(), damped(moments.covariance())
    solved = torch.linalg.solve(covariance[kept][:, kept], covariance[kept] @ whole)
    shift = moments.mean @ whole - moments.mean[kept] @ solved
    return Repaired(solved.to(weight.dtype), (bias.detach().double() + shift).to(bias.dtype))


def damped(covariance: Tensor) -> Tensor:
    """The covariance with a small constant added to its diagonal, which makes it positive definite.

    Sums in single precision can leave eigenvalues below zero: then the constant grows until none is.

    Raises:
        ValueError: it is not finite.
    """
    if not covariance.isfinite().all():
        raise ValueError("slim: activations on the calibration windows are not finite; the model is damaged")
    diagonal = torch.eye(len(covariance), dtype=covariance.dtype)
    diagonal *= _DAMPING * covariance.diagonal().mean() + torch.finfo(torch.float64).tiny
    while torch.linalg.cholesky_ex(covariance + diagonal).info:
        diagonal *= 10
    return covariance + diagonal


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


def _solve(blocks: Tensor, weight: Tensor) -> Tensor:
    return weight / blocks if blocks.shape[-1] == 1 else torch.linalg.solve(blocks, weight)
