"""Weights of two or three values: packing loses nothing, and only such matrices are packed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from slimline.tasks.models.low_bit import PER_BYTE, as_low_bit, codebook, pack, unpack
from slimline.tasks.models.packed import pack_low_bit

ALLOWED = {1: [-1, 1], 2: [-1, 0, 1]}
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 41))


@st.composite
def integers(draw: st.DrawFn) -> tuple[int, np.ndarray]:
    bits = draw(st.sampled_from([1, 2]))
    return bits, draw(arrays(np.int8, draw(SHAPES), elements=st.sampled_from(ALLOWED[bits])))


@given(integers())
def test_what_is_packed_is_unpacked(case: tuple[int, np.ndarray]) -> None:
    bits, matrix = case
    packed = pack(matrix, bits)
    assert packed.dtype == np.uint8 and packed.shape == (len(matrix), -(-matrix.shape[1] // PER_BYTE[bits]))
    np.testing.assert_array_equal(unpack(packed, bits, matrix.shape[1]), matrix)


@given(integers(), st.integers(0, 1000))
def test_a_matrix_is_found_again_with_its_scales(case: tuple[int, np.ndarray], seed: int) -> None:
    _, signs = case
    scales = np.random.default_rng(seed).uniform(0.01, 3, (len(signs), 1)).astype(np.float32)
    found = as_low_bit(signs * scales, axis=1)
    np.testing.assert_array_equal(found.integers, signs)
    used = (signs != 0).any(axis=1)
    np.testing.assert_array_equal(found.scales[used], scales[used])
    assert found.bits == (2 if (signs == 0).any() else 1)


@given(integers())
def test_the_packed_matrix_of_a_file_is_the_matrix(case: tuple[int, np.ndarray]) -> None:
    _, signs = case
    matrix = torch.from_numpy(signs * np.float32(0.25))
    packed = pack_low_bit(matrix)
    assert packed.fits(*matrix.shape)
    torch.testing.assert_close(packed.unpack(matrix.shape[1], torch.float32), matrix, rtol=0, atol=0)


def test_bytes_by_hand() -> None:
    assert pack(np.array([1, -1, -1, -1, -1, -1, -1, 1], np.int8), 1).tolist() == [0b10000001]
    assert pack(np.array([1, 0, -1, -1, -1], np.int8), 2).tolist() == [2 + 1 * 3]
    assert codebook(2)[5].tolist() == [1, 0, -1, -1, -1]
    assert codebook(1)[1].tolist() == [1, -1, -1, -1, -1, -1, -1, -1]


@pytest.mark.parametrize("bits", [1, 2])
def test_every_byte_of_a_codebook_is_another(bits: int) -> None:
    table = codebook(bits)
    np.testing.assert_array_equal(pack(table, bits)[:, 0], np.arange(len(table)))


@pytest.mark.parametrize(("bits", "wrong"), [(1, 0), (1, 2), (2, 2), (2, -3)])
def test_other_integers_are_refused(bits: int, wrong: int) -> None:
    with pytest.raises(ValueError, match=f"{wrong}; allowed with bits {bits}"):
        pack(np.array([1, -1, wrong], np.int8), bits)


def test_bytes_that_stand_for_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="byte 243"):
        unpack(np.array([[243]], np.uint8), 2, 5)
    with pytest.raises(ValueError, match="2 bytes"):
        unpack(np.zeros((1, 2), np.uint8), 1, 8)


def test_a_matrix_of_other_values_is_not_low_bit() -> None:
    assert as_low_bit(np.array([[1.0, np.nan]], np.float32), axis=1) is None
    assert as_low_bit(np.array([[1.0, -1.0, 0.5]], np.float32), axis=1) is None
    assert as_low_bit(np.array([[1.0, -1.0], [0.5, 0.5]], np.float32), axis=0) is None
    assert as_low_bit(np.array([[1.0, -1.0], [0.5, 0.5]], np.float32), axis=1) is not None
