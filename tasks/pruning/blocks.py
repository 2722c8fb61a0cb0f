"""Blocks of weight matrices: their norms, their sizes, and masks of the blocks to prune.

A matrix is [outputs, inputs]. `nn.Linear` and embeddings store it so ("out-in"); GPT-2's Conv1D stores the transpose
("in-out"). Where the block size does not divide a dimension, the last blocks are smaller. Blocks of different size are
compared by the root mean square of their weights, which is the norm divided by the square root of the size.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.pytorch_utils import Conv1D

Block = tuple[int, int]
Layout = Literal["out-in", "in-out"]
_Indices = NDArray[np.intp]


def matrices(model: nn.Module) -> list[tuple[str, nn.Parameter, Layout]]:
    """Name, weight and layout of every matrix of a model, embeddings included; tied ones once, by their first name."""
    found: dict[nn.Parameter, tuple[str, Layout]] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim == 2:
            found.setdefault(weight, (f"{name}.weight", "in-out" if isinstance(module, Conv1D) else "out-in"))
    return [(name, weight, layout) for weight, (name, layout) in found.items()]


def to_blocks(matrix: Tensor, block: Block, layout: Layout) -> Tensor:
    """The matrix as [block rows, outputs of a block, block columns, inputs of a block], padded with zeros."""
    oriented = _orient(matrix, layout)
    missing = [-size % edge for size, edge in zip(oriented.shape, block, strict=True)]
    if any(missing):
        oriented = pad(oriented, (0, missing[1], 0, missing[0]))
    return oriented.unflatten(1, (-1, block[1])).unflatten(0, (-1, block[0]))


def block_norms(matrix: Tensor, block: Block, layout: Layout) -> Tensor:
    """The 2-norm of each block's weights, [block rows, block columns]."""
    # vector_norm over such strided dimensions takes seven times as long.
    return to_blocks(matrix, block, layout).square().sum((1, 3)).sqrt()


def block_sizes(matrix: Tensor, block: Block, layout: Layout) -> Tensor:
    """How many weights each block has, [block rows, block columns], int64."""
    rows, columns = (_edges(size, edge) for size, edge in zip(_orient(matrix, layout).shape, block, strict=True))
    return rows[:, None] * columns[None, :]


def prune_mask(norms: Tensor, sizes: Tensor, sparsity: float) -> Tensor:
    """True for the blocks to keep, [block rows, block columns].

    The blocks with the smallest norm / sqrt(size) are pruned, as many as bring the share of pruned weights closest to
    `sparsity`.
    """
    weights, scores = sizes.flatten().numpy(), (norms / sizes.sqrt()).flatten().numpy()
    goal = sparsity * int(weights.sum())
    sure, unsure = _lowest(scores, weights, goal)
    middles = weights[sure].sum() + weights[unsure].cumsum() - weights[unsure] / 2
    mask = np.ones(len(scores), np.bool_)
    mask[sure] = False
    # A block is pruned if the count of weights up to its middle is below the goal: this rounds to the nearest count.
    mask[unsure[middles < goal]] = False
    return torch.from_numpy(mask).view(norms.shape)


def scale_blocks(matrix: Tensor, factors: Tensor, block: Block, layout: Layout) -> None:
    """Multiply each block by its factor, [block rows, block columns], in place."""
    oriented = _orient(matrix, layout)
    spread = factors.repeat_interleave(block[0], 0)[: oriented.shape[0]]
    oriented.mul_(spread.repeat_interleave(block[1], 1)[:, : oriented.shape[1]])
    # Negative weights times zero are -0.0, whose sign bits do not compress: the artifact would be a tenth larger.
    oriented.add_(0.0)


def _orient(matrix: Tensor, layout: Layout) -> Tensor:
    return matrix.t() if layout == "in-out" else matrix


def _edges(size: int, edge: int) -> Tensor:
    return torch.tensor([min(edge, size - start) for start in range(0, size, edge)])


def _lowest(scores: NDArray[np.float32], weights: NDArray[np.int64], goal: float) -> tuple[_Indices, _Indices]:
    """Indices of blocks that surely belong to the lowest `goal` weights, and of those that may, in ascending order.

    This partitions, because sorting millions of blocks would take as long as a training step. The number of blocks that
    make up `goal` weights is uncertain only by the number of smaller blocks.
    """
    full = weights.max()
    fewest = min(int(goal / full), len(scores) - 1)
    most = min(fewest + int((weights < full).sum()) + 1, len(scores) - 1)
    order = np.argpartition(scores, (fewest, most))
    unsure = np.sort(order[fewest : most + 1])
    return order[:fewest], unsure[np.argsort(scores[unsure], kind="stable")]
