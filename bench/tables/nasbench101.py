"""NAS-Bench-101 from the files of its authors, `nasbench_only108.tfrecord` and `nasbench_full.tfrecord`.

Source: Ying et al. (2019), NAS-Bench-101: Towards Reproducible Neural Architecture Search,
https://arxiv.org/abs/1902.09635; the layout is that of https://github.com/google-research/nasbench.

A record is one training, as JSON: [hash of the cell, epochs, adjacency matrix row by row as digits, operations by
comma, `ModelMetrics` in base64]. The metrics hold three evaluations: before training (left out here), halfway and at
the end. Trainings of one cell and budget are runs 0, 1, 2 in the order of the file. Memory grows with the number of
cells only.
"""

import binascii
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from bench.tables import tfrecord
from bench.tables.cells101 import NAMES, VERTICES, Cells, number
from bench.tables.data import TIME, Measurement, Measurements, Quantity, Report, Slot, TableData
from bench.tables.keys import HEXADECIMAL
from bench.tables.metrics101 import Evaluation, Metrics, parse
from bench.tables.packing import Packed, pack

SPACE = "nb101"
CELLS = 423_624
BUDGETS = (4, 12, 36, 108)
RUNS = ("0", "1", "2")
IMAGES = 9_984
"""Behind every accuracy: 39 batches of 256."""
PUBLISHED = {
    "4c39c3936e36a85269881d659e44e61a245babcb72cb374eacacf75d0e5f4fd1": "nasbench_only108.tfrecord",
    "3d64db8180fb1b0207212f9032205064312b6907a3bbc81eabea10db2f5c7e9c": "nasbench_full.tfrecord",
}
DATASET = "cifar10"
WHATS: tuple[Quantity, ...] = (TIME, "train", "val", "test")
BLOCK = 8_192
"""Trainings that are set down at once."""


def recognises(path: Path) -> bool:
    """Return whether a file begins like a TFRecord of JSON lists."""
    return tfrecord.recognises(path, b'["')


def read(path: Path, report: Report) -> TableData:
    """Read every training of a file.

    Raises:
        ValueError: names file, record and byte of what is not as expected.
    """
    digest, total, rows = hashlib.sha256(), path.stat().st_size, _Rows()
    for count, record in enumerate(tfrecord.records(path, digest.update)):
        try:
            rows.add(_training(record.data))
        except ValueError as error:
            raise ValueError(f"{path}, record {count} at byte {record.offset}: {error}") from error
        if count % BLOCK == 0:
            report(record.offset, total)
    return rows.table(digest.hexdigest())


class _Training(NamedTuple):
    key: str
    budget: int
    adjacency: str
    operations: str
    metrics: Metrics


def _training(data: bytes) -> _Training:
    try:
        row = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON, got {data[:40]!r} ({error})") from error
    match row:
        case [str(key), int(budget), str(adjacency), str(operations), str(metrics)] if budget in BUDGETS:
            return _Training(key, budget, adjacency, operations, parse(_decoded(metrics)))
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


class _Rows:
    """The trainings so far."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._cells = np.zeros(CELLS, dtype=np.uint32)
        self._params = np.zeros(CELLS, dtype=np.uint32)
        self._runs = {budget: bytearray(CELLS) for budget in BUDGETS}
        self._values: dict[int, np.ndarray] = {}
        self._waiting: dict[int, list[tuple[float, ...]]] = {budget: [] for budget in BUDGETS}
        self._other_params = self._rounded = 0

    def add(self, training: _Training) -> None:
        """Take a training in.

        Raises:
            ValueError: it is not one of NAS-Bench-101, or one too many.
        """
        halfway, end = _halfway_and_end(training.metrics.evaluations)
        row = self._rows.get(training.key)
        if row is None:
            row = self._new(training)
        self._other_params += int(self._params[row]) != training.metrics.params
        runs = self._runs[training.budget]
        if runs[row] == len(RUNS):
            raise ValueError(
                f"expected {len(RUNS)} trainings of cell {training.key} at {training.budget} epochs, got another one"
            )
        waiting = self._waiting[training.budget]
        waiting.append((row * len(RUNS) + runs[row], *halfway[1:], *end[1:]))
        runs[row] += 1
        if len(waiting) == BLOCK:
            self._set_down(training.budget)

    def _new(self, training: _Training) -> int:
        row = len(self._rows)
        if not HEXADECIMAL.fullmatch(training.key):
            raise ValueError(f"expected a hash of 32 hexadecimal digits, got {training.key!r}")
        if row == CELLS:
            raise ValueError(f"expected {CELLS:,} cells, got another one, {training.key}")
        self._cells[row] = _cell(training.adjacency, training.operations)
        self._params[row] = training.metrics.params
        self._rows[training.key] = row
        return row

    def _set_down(self, budget: int) -> None:
        """Move the waiting trainings into place; what the file holds is float32 in double fields."""
        block, self._waiting[budget] = np.array(self._waiting[budget]), []
        narrow = block[:, 1:].astype(np.float32)
        self._rounded += int((narrow != block[:, 1:]).sum())
        if budget not in self._values:  # pages that no cell touches take no memory
            self._values[budget] = np.zeros((CELLS * len(RUNS), 2 * len(WHATS)), dtype=np.float32)
        self._values[budget][block[:, 0].astype(np.int64)] = narrow

    def table(self, sha256: str) -> TableData:
        """Return all of it; nothing can be added any more."""
        for budget in [budget for budget, waiting in self._waiting.items() if waiting]:
            self._set_down(budget)
        keys = tuple(self._rows)
        self._rows.clear()
        notes = [*_origin(sha256), *self._remarks(len(keys))]
        made: dict[Slot, Callable[[], Measurement]] = {}
        for budget in sorted(self._values):
            made |= _measured(budget, self._values.pop(budget), self._runs[budget][: len(keys)])
        return TableData(
            space=SPACE,
            keys=keys,
            cells=Cells(self._cells[: len(keys)]),
            multiplicities=np.ones(len(keys), dtype=np.int64),
            measurements=Measurements(made),
            scalars={"params": self._params[: len(keys)].astype(np.float64)},
            total_encodings=CELLS,
            source="NAS-Bench-101",
            source_sha256=sha256,
            provenance=tuple(notes),
        )

    def _remarks(self, cells: int) -> Iterator[str]:
        """Yield what is missing from a whole benchmark, and what is not as expected in the rest."""
        if cells < CELLS:
            yield f"expected {CELLS:,} cells, got {cells:,}"
        for budget in sorted(self._values):
            counts = Counter(self._runs[budget][:cells])
            short = {runs: counts[runs] for runs in range(len(RUNS)) if counts[runs]}
            if short:
                found = ", ".join(f"{count:,} with {runs}" for runs, count in short.items())
                yield f"expected {len(RUNS)} trainings of every cell at {budget} epochs, got {found}"
        if self._rounded:
            yield f"{self._rounded:,} numbers were rounded to float32; those of the published files are float32"
        if self._other_params:
            yield f"{self._other_params:,} trainings have another number of parameters than the first of their cell"


def _origin(sha256: str) -> Iterator[str]:
    if sha256 in PUBLISHED:
        yield f"the sha256 is that of the published {PUBLISHED[sha256]}"
    else:
        known = " or ".join(f"{digest[:8]}… of {name}" for digest, name in PUBLISHED.items())
        yield f"the sha256, {sha256[:8]}…, is not published: expected {known}"


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


def _measured(budget: int, values: np.ndarray, runs: bytearray) -> dict[Slot, Callable[[], Measurement]]:
    """Return the measurements of one budget: of half its epochs, and of its end."""
    made: dict[Slot, Callable[[], Measurement]] = {}
    missing = np.arange(len(RUNS)) >= np.frombuffer(runs, np.uint8)[:, None]
    for column, (epoch, what) in enumerate(product((budget // 2, None), WHATS)):
        numbers = values[: missing.size, column].astype(np.float64).reshape(missing.shape)
        numbers[missing] = np.nan
        packed = pack(numbers if what == TIME else _of_images(numbers))
        made[Slot(DATASET, what, budget, epoch)] = partial(_measurement, packed)
    return made


def _measurement(packed: Packed) -> Measurement:
    return Measurement(packed.numbers(), RUNS)


def _of_images(numbers: Float64[np.ndarray, "rows runs"]) -> Float64[np.ndarray, "rows runs"]:
    """Return counts of images over their number, where float32 of these is what the file has; else what it has."""
    exact = np.rint(numbers * IMAGES) / IMAGES
    return np.where(exact.astype(np.float32) == numbers, exact, numbers)
