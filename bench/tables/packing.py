"""Numbers in few bytes: whatever is packed is unpacked to the same bits.

Accuracies are mostly counts of correct images, 9,984 of NAS-Bench-101 or 25,000 of NAS-Bench-201, so two bytes hold one
exactly. A narrow type is chosen only where every number of the column comes back unchanged, else the next wider one.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

IMAGES = (9_984, 10_000, 25_000, 6_000)
"""Of which accuracies are counts: NAS-Bench-101; CIFAR's test images, which cover their halves; CIFAR-10's 25,000 set
aside by NAS-Bench-201; ImageNet16-120's test images, which cover their halves."""


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
            values[self.stored == np.iinfo(self.stored.dtype).max] = np.nan
            values /= self.per
        return values

    def row(self, row: int) -> tuple[float, ...]:
        """Return the numbers of one row that are not missing."""
        found = self.stored[row].tolist()
        values = found if isinstance(found, list) else [found]
        if self.stored.dtype.kind != "u":
            return tuple(value for value in values if not math.isnan(value))
        missing = np.iinfo(self.stored.dtype).max
        return tuple(value / self.per for value in values if value != missing)


def pack(values: Float64[np.ndarray, "..."]) -> Packed:
    """Return the narrowest exact form; NaN and zero have one bit pattern each."""
    return next(packed for packed in _forms(values) if _same(packed.numbers(), values))


def _forms(values: np.ndarray) -> Iterator[Packed]:
    for per in IMAGES:
        yield _counts(values, per, np.uint16)
    yield _counts(values, 1, np.uint32)
    yield _floats(values, np.float32)
    yield _floats(values, np.float64)


def _counts(values: np.ndarray, per: int, dtype: type[np.unsignedinteger]) -> Packed:
    """Return counts; wrong where they do not fit."""
    missing = np.iinfo(dtype).max
    with np.errstate(over="ignore"):
        counts = np.where(np.isnan(values), missing, np.clip(np.rint(values * per), 0, missing - 1))
    return Packed(counts.astype(dtype), per)


def _floats(values: np.ndarray, dtype: type[np.floating]) -> Packed:
    """Return floating-point numbers; wrong where they do not fit."""
    with np.errstate(over="ignore"):
        return Packed(np.where(np.isnan(values), np.nan, values).astype(dtype) + dtype(0))


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.array_equal(one, other, equal_nan=True))
