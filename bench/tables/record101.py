"""A record of NAS-Bench-101: one training of a cell, as JSON.

[hash of the cell, epochs, adjacency matrix row by row as digits, operations by comma, `ModelMetrics` in base64]. The
metrics hold three evaluations: before training, halfway and at the end.
"""

import binascii
import json
import math
from collections.abc import Sequence
from typing import NamedTuple

from bench.tables.cells101 import NAMES, VERTICES, number
from bench.tables.metrics101 import Evaluation, parse

BUDGETS = (4, 12, 36, 108)
"""Epochs of a training."""


class Training(NamedTuple):
    """What a record says; evaluations are accuracies and seconds since the training began."""

    key: str
    budget: int
    adjacency: str
    operations: str
    params: int
    halfway: Evaluation
    end: Evaluation

    def cell(self) -> int:
        """Return the number of the cell (see `cells101`)."""
        return _cell(self.adjacency, self.operations)


def training(data: bytes) -> Training:
    """Read a record.

    Raises:
        ValueError: it is no training of NAS-Bench-101.
    """
    try:
        row = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON, got {data[:40]!r} ({error})") from error
    match row:
        case [str(key), int(budget), str(adjacency), str(operations), str(metrics)] if budget in BUDGETS:
            found = parse(_decoded(metrics))
            return Training(key, budget, adjacency, operations, found.params, *_halfway_and_end(found.evaluations))
    raise ValueError(
        f"expected a list of hash, epochs ({', '.join(map(str, BUDGETS))}), adjacency, operations and metrics, "
        f"got {str(row)[:80]}"
    )


def _decoded(metrics: str) -> bytes:
    """Return the bytes of base64, with or without line ends."""
    try:
        return binascii.a2b_base64(metrics.replace("\n", ""), strict_mode=True)
    except ValueError as error:
        raise ValueError(f"expected metrics in base64, got {metrics[:20]!r} ({error})") from error


def _halfway_and_end(evaluations: Sequence[Evaluation]) -> tuple[Evaluation, Evaluation]:
    """Return two of three evaluations, told apart by their epochs, in whatever unit."""
    if len(evaluations) != 3:
        raise ValueError(f"expected evaluations before, halfway and at the end, got {len(evaluations)}")
    before, halfway, end = evaluations
    if not (0 <= before.epoch < halfway.epoch < end.epoch < math.inf and 0.45 < halfway.epoch / end.epoch < 0.55):
        raise ValueError(
            "expected evaluations before, halfway and at the end of a training, got the epochs "
            f"{before.epoch:g}, {halfway.epoch:g} and {end.epoch:g}"
        )
    for found in (halfway, end):
        if not (0 <= found.train <= 1 and 0 <= found.val <= 1 and 0 <= found.test <= 1):
            raise ValueError(f"expected accuracies in [0, 1], got {found.train:g}, {found.val:g} and {found.test:g}")
        if not 0 <= found.train_time_s < math.inf:
            raise ValueError(f"expected seconds of training, 0 or more, got {found.train_time_s:g}")
    return halfway, end


def _cell(adjacency: str, operations: str) -> int:
    """Return the number of a cell from its matrix, row by row, and its operations by comma."""
    size, names = math.isqrt(len(adjacency)), operations.split(",")
    pairs = [(i, j) for i in range(size) for j in range(i + 1, size) if adjacency[i * size + j] == "1"]
    if not 2 <= size <= VERTICES or adjacency.count("0") + len(pairs) != size * size:
        raise ValueError(
            f"expected an upper triangular matrix of 0 and 1, of 2 to {VERTICES} vertices, got {adjacency[:49]!r}"
        )
    inner = [NAMES.get(name) for name in names[1:-1]]
    known = [operation for operation in inner if operation is not None]
    if (names[0], names[-1], len(known)) != ("input", "output", size - 2):
        raise ValueError(f"expected input, {size - 2} of {', '.join(NAMES)}, and output, got {operations[:120]!r}")
    return number(pairs, known)
