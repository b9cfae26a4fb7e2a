"""Cells of NAS-Bench-101 as 31-bit numbers, and in words.

Bit k of a number is the k-th pair (i, j), i < j, of vertices, column by column: (0,1), (0,2), (1,2), (0,3), …; above
those 21 bits stand five operations of two bits, vertices 1 to 5: 0, 1 or 2 as in `OPERATIONS`, 3 where there is no such
vertex. Vertex 0 is the input, the last vertex the output.
"""

from collections.abc import Sequence
from typing import overload

import numpy as np
from jaxtyping import UInt32

OPERATIONS = ("conv3x3", "conv1x1", "maxpool3x3")
NAMES = {"conv3x3-bn-relu": 0, "conv1x1-bn-relu": 1, "maxpool3x3": 2}
VERTICES = 7
PAIRS = tuple((source, target) for target in range(1, VERTICES) for source in range(target))
ABSENT = 3


def number(pairs: Sequence[tuple[int, int]], operations: Sequence[int]) -> int:
    """Return the number of a cell, given its edges and the operations of its inner vertices."""
    bits = sum(1 << (target * (target - 1) // 2 + source) for source, target in pairs)
    padded = [*operations, *[ABSENT] * (VERTICES - 2 - len(operations))]
    return bits | sum(operation << (len(PAIRS) + 2 * place) for place, operation in enumerate(padded))


def words(cell: int) -> str:
    """Return a cell as operations of vertices 1, 2, …, then edges: "conv3x3,conv1x1; 0-1 0-2 1-3 2-3"."""
    digits = [cell >> (len(PAIRS) + 2 * place) & 3 for place in range(VERTICES - 2)]
    edges = " ".join(f"{pair[0]}-{pair[1]}" for bit, pair in enumerate(PAIRS) if cell >> bit & 1)
    return f"{','.join(OPERATIONS[digit] for digit in digits if digit != ABSENT)}; {edges}"


def spelt(text: str) -> tuple[str, str]:
    """Return the adjacency matrix, row by row, and the operations of a cell in words."""
    operations, _, edges = text.partition("; ")
    size = 2 + len([name for name in operations.split(",") if name])
    pairs = set(edges.split())
    rows = ("".join(str(int(f"{i}-{j}" in pairs)) for j in range(size)) for i in range(size))
    return "/".join(rows), operations


class Cells(Sequence[str]):
    """Cells in words, made when they are asked for."""

    def __init__(self, numbers: UInt32[np.ndarray, " rows"]) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> "Cells": ...
    def __getitem__(self, row: int | slice) -> "str | Cells":
        return Cells(self.numbers[row]) if isinstance(row, slice) else words(int(self.numbers[row]))

    def take(self, rows: Sequence[int]) -> "Cells":
        """Return the cells of some rows."""
        return Cells(self.numbers[list(rows)])
