"""Numbers in few bytes: whatever is packed is unpacked to the same bits.

Accuracies are mostly counts of correct images, 9,984 of NAS-Bench-101 or 25,000 of NAS-Bench-201, so two bytes hold one
exactly. A narrow type is chosen only where every number of the column comes back unchanged, else the next wider one.
"""

import math
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

IMAGES = (9_984, 10_000, 25_000, 6_000)
"""Of which accuracies are counts: NAS-Bench-101; CIFAR's test images, which cover their halves; CIFAR-10's 25,000 set
aside by NAS-Bench-201; ImageNet16-120's test images, which cover their halves."""

BLOCK = 1 << 16


class Packed(NamedTuple):
    """A column "rows" or "rows runs".

    Attributes:
        stored: float64 or float32: the numbers, NaN where missing; unsigned: counts, the largest where missing.
        per: a count stands for this fraction of one; 1 for floating-point numbers.
    """

    stored: np.ndarray
    per: int = 1

    def numbers(self) -> Float64[np.ndarray, "..."]:
        """Return all numbers, NaN where missing."""
        values = self.stored.astype(np.float64)
        if self.stored.dtype.kind == "u":
            values[self.stored == _missing(self.stored.dtype)] = np.nan
            values /= self.per
        return values

    def row(self, row: int) -> tuple[float, ...]:
        """Return the numbers of one row that are not missing."""
        return tuple(number for number in self.places(row) if number is not None)

    def places(self, row: int) -> list[float | None]:
        """Return the numbers of one row, None where missing."""
        found = self.stored[row].tolist()
        stored = found if isinstance(found, list) else [found]
        if self.stored.dtype.kind != "u":
            return [None if math.isnan(number) else number for number in stored]
        missing = _missing(self.stored.dtype)
        return [None if count == missing else count / self.per for count in stored]


def pack(values: Float64[np.ndarray, "..."]) -> Packed:
    """Return the narrowest exact form; NaN and zero have one bit pattern each."""
    return next(packed for packed in (_packed(values, *form) for form in _FORMS) if packed is not None)


_FORMS: tuple[tuple[type[np.number], int], ...] = (
    *((np.uint16, per) for per in IMAGES),
    (np.uint32, 1),
    (np.float32, 1),
    (np.float64, 1),
)


def _missing(dtype: np.dtype) -> int:
    return (1 << 8 * dtype.itemsize) - 1


def _packed(values: np.ndarray, dtype: type[np.number], per: int) -> Packed | None:
    """Return numbers in a form, None where it changes one; a block of rows at a time takes little memory."""
    packed = Packed(np.empty(values.shape, dtype), per)
    to_form = partial(_counts, per=per) if packed.stored.dtype.kind == "u" else _floats
    for begin in range(0, len(values), BLOCK):
        block = slice(begin, begin + BLOCK)
        packed.stored[block] = to_form(values[block], packed.stored.dtype)
        again = Packed(packed.stored[block], per).numbers()
        if not np.array_equal(again, values[block], equal_nan=True):
            return None
    return packed


def _counts(values: np.ndarray, dtype: np.dtype, per: int) -> np.ndarray:
    """Return counts; wrong where they do not fit."""
    missing = _missing(dtype)
    with np.errstate(over="ignore"):
        return np.where(np.isnan(values), missing, np.clip(np.rint(values * per), 0, missing - 1)).astype(dtype)


def _floats(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return floating-point numbers; wrong where they do not fit."""
    with np.errstate(over="ignore"):
        return np.where(np.isnan(values), np.nan, values).astype(dtype) + dtype.type(0)
