"""A made-up file in the layout of NAS-Bench-101's `.tfrecord`, to try and to time the reader without the real one.

No number in it says anything about cells. Trainings stand cell by cell, budget by budget, run by run.
"""

import base64
import json
import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.rng import numpy_stream
from bench.spaces.graph101 import LABELS, graph_hash, prune
from bench.tables.cells101 import NAMES, VERTICES
from bench.tables.nasbench101 import IMAGES, RUNS
from bench.tables.record101 import BUDGETS
from bench.tables.tfrecord import frame

MOST_EDGES = 9
"""Of a cell of the benchmark."""
BLOCK = 4_096
"""Trainings drawn at once."""

_EVALUATION = struct.Struct("<BBBdBdBdBdBd")
_TOTAL_TIME = struct.Struct("<Bd")


class Cell(NamedTuple):
    """A cell as a record spells it."""

    key: str
    adjacency: str
    operations: str


class Training(NamedTuple):
    """What a record says of a training; accuracies "evaluations splits", before, halfway and at the end."""

    epochs: int
    accuracies: np.ndarray
    seconds: np.ndarray
    params: int


def hashed_cells(count: int, seed: int = 0) -> list[Cell]:
    """Return cells of different hashes, each pruned and under the hash it has in the benchmark."""
    found: dict[str, Cell] = {}
    for cell in _drawn_cells(seed):
        if len(found) == count:
            break
        found.setdefault(cell.key, cell)
    return list(found.values())


def _drawn_cells(seed: int) -> Iterator[Cell]:
    draw = numpy_stream(seed, "cells of NAS-Bench-101", 0)
    names = tuple(NAMES)
    while True:
        size = int(draw.integers(2, VERTICES + 1))
        matrix = np.triu(draw.integers(0, 2, (size, size)), 1).tolist()
        operations = ["input", *(names[i] for i in draw.integers(0, len(names), size - 2)), "output"]
        pruned = prune(matrix, range(size))
        if pruned is not None:
            kept = [operations[vertex] for vertex in pruned[1]]
            digits = "".join(str(edge) for row in pruned[0] for edge in row)
            yield Cell(graph_hash(pruned[0], [LABELS[name] for name in kept]), digits, ",".join(kept))


def unhashed_cells(count: int, seed: int = 0) -> Iterator[Cell]:
    """Yield cells of seven vertices and nine edges under keys that are no hashes; any number of them, quickly."""
    draw = numpy_stream(seed, "cells of NAS-Bench-101", 1)
    names, others = np.array(list(NAMES)), np.flatnonzero(np.triu(np.ones((VERTICES, VERTICES)), 2))
    for number in range(count):
        matrix = np.eye(VERTICES, k=1, dtype=np.int64)
        matrix.flat[draw.choice(others, MOST_EDGES - VERTICES + 1, replace=False)] = 1
        operations = ",".join(("input", *names[draw.integers(0, len(names), VERTICES - 2)], "output"))
        yield Cell(f"{draw.integers(2**63):016x}{number:016x}", "".join(map(str, matrix.ravel().tolist())), operations)


def write_sample(path: Path, cells: Iterator[Cell] | list[Cell], budgets: tuple[int, ...], seed: int = 0) -> Path:
    """Write three trainings of every cell and budget; return the path."""
    drawn = trainings(budgets, seed)
    with path.open("wb") as file:
        for cell in cells:
            for training in islice(drawn, len(budgets) * len(RUNS)):
                file.write(frame(record(cell, training)))
    return path


def trainings(budgets: tuple[int, ...], seed: int = 0) -> Iterator[Training]:
    """Yield trainings without end: three of the first budget, three of the next, and again from the first."""
    draw = numpy_stream(seed, "trainings of NAS-Bench-101", 0)
    while True:
        shape = (BLOCK, len(budgets), len(RUNS), 3)
        accuracies = (draw.integers(0, IMAGES + 1, (*shape, 3)) / IMAGES).astype(np.float32)
        seconds = np.cumsum(draw.uniform(1, 2000, shape), -1).astype(np.float32)
        params = draw.integers(227_274, 49_979_275, BLOCK).tolist()
        for cell in range(BLOCK):
            for place, epochs in enumerate(budgets):
                for run in range(len(RUNS)):
                    yield Training(epochs, accuracies[cell, place, run], seconds[cell, place, run], params[cell])


def record(cell: Cell, training: Training) -> bytes:
    """Return the data of a record."""
    metrics = base64.encodebytes(message(training)).decode()
    return json.dumps([cell.key, training.epochs, cell.adjacency, cell.operations, metrics]).encode()


def message(training: Training) -> bytes:
    """Return the `ModelMetrics` of a training."""
    epochs = (0.0, training.epochs / 2, float(training.epochs))
    rows = zip(epochs, training.seconds.tolist(), training.accuracies.tolist(), strict=True)
    evaluations = [
        _EVALUATION.pack(10, 45, 9, epoch, 17, seconds, 25, train, 33, val, 41, test)
        for epoch, seconds, (train, val, test) in rows
    ]
    total = _TOTAL_TIME.pack(25, float(training.seconds[-1]))
    return b"".join(evaluations) + b"\x10" + _varint(training.params) + total


def _varint(value: int) -> bytes:
    digits = []
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


FILES = {"nasbench_only108": (108,), "nasbench_full": BUDGETS}
"""Budgets of the published files."""
