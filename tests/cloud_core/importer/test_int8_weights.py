"""int8 matrices: what they stand for, and that no kernel which adds two products in 16 bits can overflow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cloud_core.importer.int8_weights import columns, rows

matrices = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 12), st.integers(1, 6)), elements=st.floats(-8, 8, width=32)
)


def sums_in_16_bits(data):
    """The largest sum of two neighbouring products with activations of 255, as `vpmaddubsw` adds them: rows 0 and 1, 2 and 3, …"""
    even = len(data) // 2 * 2
    pairs = data[:even].reshape(-1, 2, data.shape[1]).astype(int) * 255
    positive, negative = np.maximum(pairs, 0).sum(axis=1), np.minimum(pairs, 0).sum(axis=1)
    return positive.max(initial=0), negative.min(initial=0)


@pytest.mark.parametrize("fine", [False, True])
@given(matrix=matrices)
def test_two_products_fit_in_16_bits(matrix, fine):
    highest, lowest = sums_in_16_bits(columns(matrix, fine=fine).data)
    assert highest <= 32767
    assert lowest >= -32768


@given(matrix=matrices)
def test_columns_are_near_and_each_has_its_own_scale(matrix):
    found = columns(matrix)
    assert found.data.dtype == np.int8
    assert found.scale.shape == (matrix.shape[1],)
    assert (np.abs(found.data * found.scale - matrix) <= found.scale * 0.501 + 1e-9).all()


@given(matrix=matrices)
def test_fine_errs_no_more_than_sixty_four_steps_do(matrix):
    found = columns(matrix, fine=True)
    errors = np.square(found.data * found.scale - matrix).sum(axis=0)
    steps = np.abs(matrix).max(axis=0) / 64
    assert (errors <= len(matrix) * np.square(steps * 0.501) + 1e-9).all()


def test_fine_is_nearer_for_what_weights_look_like():
    matrix = np.random.default_rng(0).normal(size=(768, 64)).astype(np.float32)
    errors = [float(np.square(f.data * f.scale - matrix).sum()) for f in (columns(matrix), columns(matrix, fine=True))]
    assert errors[1] < 0.5 * errors[0]


@given(table=matrices)
def test_rows_of_a_table_are_within_half_a_step(table):
    found = rows(table)
    assert found.scale.shape == (len(table), 1)
    assert (np.abs(found.data * found.scale - table) <= found.scale * 0.501 + 1e-9).all()


def test_nothing_but_zeros_stays_zeros():
    assert not columns(np.zeros((4, 3), np.float32), fine=True).data.any()
