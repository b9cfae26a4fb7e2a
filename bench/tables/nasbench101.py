"""NAS-Bench-101 from the files of its authors, `nasbench_only108.tfrecord` and `nasbench_full.tfrecord`.

Source: Ying et al. (2019), NAS-Bench-101: Towards Reproducible Neural Architecture Search,
https://arxiv.org/abs/1902.09635; the layout is that of https://github.com/google-research/nasbench.

A record is one training (`record101`). Trainings of one cell and budget are runs 0, 1, 2 in the order of the file; what
was measured before training is left out. Memory grows with the number of cells, whatever the file's size.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.tables import tfrecord
from bench.tables.cells101 import Cells
from bench.tables.data import TIME, Held, Measurements, Quantity, Report, Slot, TableData
from bench.tables.keys import HEXADECIMAL
from bench.tables.packing import Packed, pack
from bench.tables.record101 import BUDGETS, Training, training

SPACE = "nb101"
CELLS = 423_624
RUNS = ("0", "1", "2")
IMAGES = 9_984
"""Behind every accuracy: 39 batches of 256."""
PUBLISHED = {
    "4c39c3936e36a85269881d659e44e61a245babcb72cb374eacacf75d0e5f4fd1": "nasbench_only108.tfrecord",
    "3d64db8180fb1b0207212f9032205064312b6907a3bbc81eabea10db2f5c7e9c": "nasbench_full.tfrecord",
}
DATASET = "cifar10"
SPLITS: tuple[Quantity, ...] = ("train", "val", "test")
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
            rows.add(training(record.data))
        except ValueError as error:
            raise ValueError(f"{path}, record {count} at byte {record.offset}: {error}") from error
        if count % BLOCK == 0:
            report(record.offset, total)
    return rows.table(digest.hexdigest())


class _Odd(NamedTuple):
    """Accuracies that are no counts of images, as float32: none in the published files as far as is known."""

    places: np.ndarray
    columns: np.ndarray
    values: np.ndarray


class _Rows:
    """The trainings so far."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._cells = np.zeros(CELLS, dtype=np.uint32)
        self._params = np.zeros(CELLS, dtype=np.uint32)
        self._runs = {budget: bytearray(CELLS) for budget in BUDGETS}
        self._seconds: dict[int, np.ndarray] = {}
        self._counts: dict[int, np.ndarray] = {}
        self._odd: dict[int, list[_Odd]] = {budget: [] for budget in BUDGETS}
        self._waiting: dict[int, list[tuple[float, ...]]] = {budget: [] for budget in BUDGETS}
        self._other_params = self._rounded = 0

    def add(self, training: Training) -> None:
        """Take a training in; ValueError: it is one too many, or its cell is none."""
        row = self._rows.get(training.key)
        if row is None:
            row = self._new(training)
        self._other_params += int(self._params[row]) != training.params
        runs = self._runs[training.budget]
        if runs[row] == len(RUNS):
            raise ValueError(
                f"expected {len(RUNS)} trainings of cell {training.key} at {training.budget} epochs, got another one"
            )
        waiting = self._waiting[training.budget]
        place = row * len(RUNS) + runs[row]
        waiting.append(
            (place, training.halfway.train_time_s, training.end.train_time_s, *training.halfway[2:], *training.end[2:])
        )
        runs[row] += 1
        if len(waiting) == BLOCK:
            self._set_down(training.budget)

    def _new(self, training: Training) -> int:
        row = len(self._rows)
        if not HEXADECIMAL.fullmatch(training.key):
            raise ValueError(f"expected a hash of 32 hexadecimal digits, got {training.key!r}")
        if row == CELLS:
            raise ValueError(f"expected {CELLS:,} cells, got another one, {training.key}")
        self._cells[row] = training.cell()
        self._params[row] = training.params
        self._rows[training.key] = row
        return row

    def _set_down(self, budget: int) -> None:
        """Move the waiting trainings into place; what the file holds is float32 in double fields."""
        block, self._waiting[budget] = np.array(self._waiting[budget]), []
        narrow = block.astype(np.float32)
        self._rounded += int((narrow[:, 1:] != block[:, 1:]).sum())
        if budget not in self._counts:  # pages that no cell touches take no memory
            self._seconds[budget] = np.zeros((CELLS * len(RUNS), 2), dtype=np.float32)
            self._counts[budget] = np.zeros((CELLS * len(RUNS), 2 * len(SPLITS)), dtype=np.uint16)
        places = block[:, 0].astype(np.int64)
        accuracies = narrow[:, 3:]
        counts = np.rint(accuracies * np.float64(IMAGES))
        self._seconds[budget][places] = narrow[:, 1:3]
        self._counts[budget][places] = counts
        rows, columns = np.nonzero((counts / IMAGES).astype(np.float32) != accuracies)
        if rows.size:
            self._odd[budget].append(_Odd(places[rows], columns, accuracies[rows, columns]))

    def table(self, sha256: str) -> TableData:
        """Return all of it; nothing can be added any more."""
        for budget in [budget for budget, waiting in self._waiting.items() if waiting]:
            self._set_down(budget)
        keys = tuple(sorted(self._rows))
        order = np.array([self._rows[key] for key in keys], dtype=np.int64)
        self._rows.clear()
        notes = [*_origin(sha256), *self._remarks(len(keys))]
        held: dict[Slot, Held] = {}
        for budget in sorted(self._counts):
            held |= self._held(budget, order)
        return TableData(
            space=SPACE,
            keys=keys,
            cells=Cells(self._cells[order]),
            multiplicities=np.ones(len(keys), dtype=np.int64),
            measurements=Measurements(held),
            scalars={"params": self._params[order].astype(np.float64)},
            total_encodings=CELLS,
            source="NAS-Bench-101",
            source_sha256=sha256,
            provenance=tuple(notes),
        )

    def _held(self, budget: int, order: np.ndarray) -> dict[Slot, Held]:
        """Return the measurements of one budget, of half its epochs and of its end, rows in an order; forget them."""
        held = {}
        missing = np.arange(len(RUNS)) >= np.frombuffer(self._runs[budget], np.uint8)[order, None]
        seconds = self._seconds.pop(budget).reshape(CELLS, len(RUNS), -1)
        counts = self._counts.pop(budget)
        for column, at in enumerate((budget // 2, None)):
            times = np.where(missing, np.nan, seconds[order, :, column])
            held[Slot(DATASET, TIME, budget, at)] = Held(pack(times.astype(np.float64)), RUNS)
        for column, (at, split) in enumerate(product((budget // 2, None), SPLITS)):
            packed = Packed(counts[:, column].reshape(CELLS, -1)[order], IMAGES)
            packed.stored[missing] = np.iinfo(np.uint16).max
            odd = [_Odd(*(part[one.columns == column] for part in one)) for one in self._odd[budget]]
            whole = _patched(packed, odd, order) if any(one.places.size for one in odd) else packed
            held[Slot(DATASET, split, budget, at)] = Held(whole, RUNS)
        return held

    def _remarks(self, cells: int) -> Iterator[str]:
        """Yield what is missing from a whole benchmark, and what is not as expected in the rest."""
        if cells < CELLS:
            yield f"expected {CELLS:,} cells, got {cells:,}"
        for budget in sorted(self._counts):
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


def _patched(packed: Packed, odd: Sequence[_Odd], order: np.ndarray) -> Packed:
    """Return a column with accuracies in it that are no counts."""
    numbers, position = packed.numbers(), np.empty(CELLS, dtype=np.int64)
    position[order] = np.arange(len(order))
    for one in odd:
        rows, runs = np.divmod(one.places, len(RUNS))
        numbers[position[rows], runs] = one.values
    return pack(numbers)
