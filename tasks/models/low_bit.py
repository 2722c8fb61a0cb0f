"""Weights of two or three values, several in a byte: 8 of ±1 (1 bit each), or 5 of -1, 0 and 1 (1.6 bits each).

A byte of five is their sum in base 3, each plus 1, the first one with the smallest weight; 243 of 256 bytes are used.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

LowBits = Literal[1, 2]
PER_BYTE: dict[LowBits, int] = {1: 8, 2: 5}
"""Weights in a byte, by the bits that a weight is said to have; ternary ones are usually said to have 2."""

_POWERS = 3 ** np.arange(5)
# What a weight may differ from its integer times its scale, as a share of the scale: rounding in fp32.
_TOLERANCE = 1e-5


class LowBitMatrix(NamedTuple):
    """A matrix as integers, -1, 0 and 1, times scales.

    Attributes:
        integers: Of the matrix's shape.
        scales: Of that shape, with length 1 along the axis that shares a scale.
        bits: 1 if no integer is 0, else 2.
    """

    integers: NDArray[np.int8]
    scales: NDArray[np.float32]
    bits: LowBits


def as_low_bit(matrix: NDArray[np.float32], axis: int) -> LowBitMatrix | None:
    """A matrix in two or three values.

    Args:
        matrix: Any matrix.
        axis: Along which numbers share a scale.

    Returns:
        None if they have other values.
    """
    sizes = np.abs(matrix)
    scales = sizes.max(axis=axis, keepdims=True)
    integers = np.nan_to_num(np.sign(matrix)).astype(np.int8)
    if not (np.abs(sizes - np.abs(integers) * scales) <= _TOLERANCE * scales).all():  # so that NaN is refused, too
        return None
    return LowBitMatrix(integers, scales, 2 if (integers == 0).any() else 1)


def codebook(bits: LowBits) -> NDArray[np.int8]:
    """What each byte stands for, [bytes, weights in a byte]."""
    if bits == 1:
        signs = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
        return signs.astype(np.int8) * 2 - 1
    return (np.arange(3**5)[:, None] // _POWERS % 3 - 1).astype(np.int8)


def pack(integers: NDArray[np.int8], bits: LowBits) -> NDArray[np.uint8]:
    """Pack integers along the last axis; the last byte of a row may be filled up.

    Args:
        integers: -1, 0 and 1, [..., n]; 0 only in ternary.
        bits: 1, or 2 for ternary.

    Returns:
        [..., n / weights in a byte, rounded up].

    Raises:
        ValueError: an integer is none that the bits allow.
    """
    allowed = (-1, 1) if bits == 1 else (-1, 0, 1)
    if not np.isin(integers, allowed).all():
        worst = integers[~np.isin(integers, allowed)][0]
        raise ValueError(f"integers has {worst}; allowed with bits {bits}: {', '.join(map(str, allowed))}")
    missing = -integers.shape[-1] % PER_BYTE[bits]
    padded = np.pad(integers, [(0, 0)] * (integers.ndim - 1) + [(0, missing)], constant_values=-1)
    if bits == 1:
        return np.packbits(padded > 0, axis=-1, bitorder="little")
    digits = padded.reshape(*padded.shape[:-1], -1, len(_POWERS)) + 1
    return np.asarray((digits * _POWERS).sum(axis=-1), dtype=np.uint8)


def unpack(packed: NDArray[np.uint8], bits: LowBits, count: int) -> NDArray[np.int8]:
    """The integers that `pack` has packed.

    Args:
        packed: Bytes, [..., bytes].
        bits: 1, or 2 for ternary.
        count: Integers of a row.

    Returns:
        [..., count].

    Raises:
        ValueError: a byte stands for nothing, or there are too few or too many.
    """
    table = codebook(bits)
    if packed.shape[-1] != -(-count // PER_BYTE[bits]):
        raise ValueError(
            f"packed has {packed.shape[-1]} bytes a row; allowed for {count}: {-(-count // PER_BYTE[bits])}"
        )
    if packed.size and packed.max() >= len(table):
        raise ValueError(f"packed has a byte {packed.max()}; allowed: 0 to {len(table) - 1}")
    return table[packed].reshape(*packed.shape[:-1], -1)[..., :count]
