"""From a cell as people spell it to its key in the table."""

import math
from collections.abc import Sequence

from bench.spaces.graph101 import LABELS, graph_hash
from bench.spaces.nb201 import NB201Space, parse

BETWEEN = "/,;[] "
"""May stand between the digits of a matrix."""


def key(space: str, cell: Sequence[str]) -> str:
    """Return the key of a cell.

    Args:
        space: "nb201", else a space whose keys are NAS-Bench-101 hashes.
        cell: an architecture string; or an adjacency matrix row by row, and the operations of its vertices.

    Raises:
        ValueError: the cell is none of the space.
    """
    if space == "nb201":
        if len(cell) != 1:
            raise ValueError(f"expected one string |op~0|+|op~0|op~1|+|op~0|op~1|op~2|, got {len(cell)} words")
        return NB201Space().key(parse(cell[0]))
    if len(cell) != 2:
        raise ValueError(f"expected a matrix and operations, as in 010/001/000 conv3x3, got {len(cell)} words")
    matrix = _matrix(cell[0])
    return graph_hash(matrix, _labels(cell[1], len(matrix)))


def _matrix(text: str) -> list[list[int]]:
    """Read a matrix of 0 and 1, row by row."""
    digits = "".join(letter for letter in text if letter not in BETWEEN)
    size = math.isqrt(len(digits))
    rows = [[int(digit == "1") for digit in digits[i * size : (i + 1) * size]] for i in range(size)]
    above = sum(rows[i][j] for i in range(size) for j in range(i + 1, size))
    if size < 2 or digits.count("0") + above != size * size:
        raise ValueError(f"expected an upper triangular matrix of 0 and 1 like 010/001/000, got {text!r}")
    return rows


def _labels(text: str, size: int) -> list[int]:
    """Read operations by comma; input and output may be left out, and so may -bn-relu."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    names = names if len(names) == size else ["input", *names, "output"]
    whole = [name if name in LABELS else f"{name}-bn-relu" for name in names]
    if len(whole) != size or [whole[0], whole[-1]] != ["input", "output"] or not set(whole) <= set(LABELS):
        raise ValueError(f"expected {size - 2} operations out of conv3x3, conv1x1 and maxpool3x3, got {text!r}")
    return [LABELS[name] for name in whole]
