"""Columns in few bytes: the same bits come back, and the narrow forms are really taken."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bench.tables import cells101, keys
from bench.tables.packing import IMAGES, pack

NAN = float("nan")


@settings(deadline=None, max_examples=200)
@given(arrays.arrays(np.float64, st.tuples(st.integers(0, 4), st.integers(1, 3))))
def test_any_numbers_come_back_to_the_bit(values: np.ndarray) -> None:
    expected = np.where(np.isnan(values), np.nan, values) + 0.0
    packed = pack(values)
    assert packed.numbers().tobytes() == expected.tobytes()
    for row, numbers in enumerate(expected):
        assert packed.row(row) == tuple(numbers[~np.isnan(numbers)])


@pytest.mark.parametrize("images", [*IMAGES, 3000, 5000])
def test_counts_of_images_take_two_bytes(images: int) -> None:
    values = np.append(np.arange(images + 1) / images, NAN)
    packed = pack(values)
    assert packed.stored.dtype == np.uint16
    np.testing.assert_array_equal(packed.numbers(), values)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, NAN, 49_979_274], np.uint32),
        ([0, 2.0**32 - 2], np.uint32),
        ([0, 2.0**32 - 1], np.float64),
        ([1769.1279296875, NAN], np.float32),
        ([1 / 7, 0.5], np.float64),
        ([-1.0], np.float32),
        ([65535.0, 0.5], np.float32),
    ],
)
def test_the_narrowest_exact_form_is_taken(values: list[float], dtype: type) -> None:
    assert pack(np.array(values)).stored.dtype == dtype


def test_hexadecimal_keys_are_two_numbers_and_others_are_text() -> None:
    heads = ["0" * 31 + "1", "f" * 32, "0" * 32, "00000000000000010000000000000000"]
    stored = keys.columns(heads)
    assert (stored.name, stored.order.tolist()) == ("tail", [2, 0, 3, 1])
    assert (stored.digest.to_pylist(), stored.rest.to_pylist()) == ([0, 0, 1, 2**64 - 1], [0, 1, 0, 2**64 - 1])
    assert keys.columns([*heads[:3], "0" * 31 + "A"]).name == "key"
    assert keys.columns(["0" * 31]).name == "key"


def test_a_cell_of_seven_vertices_is_31_bits() -> None:
    pairs = [(0, 1), (0, 2), (1, 2), (4, 5), (5, 6)]
    number = cells101.number(pairs, [0, 1, 2, 2, 1])
    assert number == 0b01_10_10_01_00 << 21 | 1 << 20 | 1 << 14 | 0b111
    assert cells101.words(number) == "conv3x3,conv1x1,maxpool3x3,maxpool3x3,conv1x1; 0-1 0-2 1-2 4-5 5-6"


def test_smaller_cells_have_fewer_operations() -> None:
    assert cells101.words(cells101.number([(0, 1)], [])) == "; 0-1"
    cells = cells101.Cells(np.array([cells101.number([(0, 1), (1, 2)], [2]), 0], dtype=np.uint32))
    assert list(cells) == ["maxpool3x3; 0-1 1-2", "conv3x3,conv3x3,conv3x3,conv3x3,conv3x3; "]
    assert list(cells[:1]) == list(cells.take([0])) == ["maxpool3x3; 0-1 1-2"]
