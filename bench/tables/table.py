"""Queries on a compact benchmark table: one dataset at one budget of a mapped file.

A query that finds nothing is a miss, `None`: never a guess. `arrow` says what the file is and why.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.tables.arrow import budgets, cell, column, mapped, packed, slots
from bench.tables.data import MEAN, N_RUNS, TIME, Slot
from bench.tables.keys import Keys
from bench.tables.packing import Packed


@dataclass(frozen=True)
class TableEntry:
    """What the table says about one cell; accuracies are fractions, means are over all stored runs.

    Attributes:
        val: the stored runs; the mean alone where the table does not have the single runs.
        n_runs: runs behind `test_mean`.
        budget: training epochs.
        epoch: None: at the end of the training; else accuracies and seconds of this epoch of it.
        params: weights, None where unknown.
        train_time_s: seconds of the whole training, a mean over the stored runs; None where unknown.
    """

    key: str
    val_mean: float
    test_mean: float
    val: tuple[float, ...]
    test: tuple[float, ...]
    n_runs: int
    budget: int
    params: int | None
    flops: float | None
    train_time_s: float | None
    epoch: int | None = None


@dataclass(frozen=True)
class Reference:
    """What regret is measured against, over the stored rows of one dataset and budget; accuracies are fractions.

    Attributes:
        optimum_val: best mean validation accuracy; `optimum_test` separately, of cells of its own.
        optimum_val_keys: every cell that reaches it, in the order of the keys.
        random_cell_val: mean over raw encodings, i.e. over rows weighted by multiplicity.
        coverage: share of the raw encodings of the space that are stored, None where their number is unknown.
        digest: sha256 of the content.
    """

    rows: int
    optimum_val: float
    optimum_test: float
    optimum_val_keys: tuple[str, ...]
    optimum_test_keys: tuple[str, ...]
    random_cell_val: float
    random_cell_test: float
    coverage: float | None
    digest: str
    budget: int
    dataset: str
    space: str
    source: str


@dataclass(frozen=True)
class Typical:
    """Mean and median of the stored cells' mean accuracies, each cell counted once."""

    mean_val: float
    mean_test: float
    median_val: float
    median_test: float


class Table:
    """One dataset at one budget of a mapped file; holds views, no copies.

    Args:
        end: which test accuracies are meant: dataset, budget, and the epoch if it is not the end of the training.
    """

    def __init__(self, batch: pa.RecordBatch, metadata: dict[str, Any], end: Slot) -> None:
        self.space: str = metadata["space"]
        self.dataset, self.budget, self.epoch = end.dataset, end.budget, end.epoch
        self._batch, self._metadata = batch, metadata
        self._keys = Keys(batch)
        self._multiplicities = column(batch, "multiplicity")
        self._val = packed(batch, metadata, end._replace(what="val").name)
        self._test = packed(batch, metadata, end.name)
        self._n_runs = column(batch, f"{end.name}/{N_RUNS}") if f"{end.name}/{N_RUNS}" in batch.schema.names else None
        self._params = _optional(batch, metadata, f"{end.dataset}/params", "params")
        self._flops = _optional(batch, metadata, f"{end.dataset}/flops", "flops")
        self._train_time_s = _optional(batch, metadata, end._replace(what=TIME).name)

    @classmethod
    def open(cls, path: Path, dataset: str, budget: int | None = None, epoch: int | None = None) -> "Table":
        """Map a file; `budget` None is the largest stored for the dataset, `epoch` None the end of the training."""
        batch, metadata = mapped(path)
        stored = budgets(metadata)
        if dataset not in stored:
            raise ValueError(f"{path} has no dataset {dataset!r}; it has {', '.join(sorted(stored))}")
        if budget is not None and budget not in stored[dataset]:
            raise ValueError(f"{path} has no budget {budget} for {dataset}; it has {stored[dataset]}")
        end = Slot(dataset, "test", max(stored[dataset]) if budget is None else budget, epoch)
        if epoch is not None and end not in slots(metadata):
            known = [slot.epoch for slot in slots(metadata) if slot[:3] == end[:3] and slot.epoch is not None]
            raise ValueError(f"{path} has no epoch {epoch} of {end.budget} for {dataset}; it has the end and {known}")
        return cls(batch, metadata, end)

    def query(self, key: str) -> TableEntry | None:
        """Return the entry of a key, None when the table does not have it."""
        row = self._keys.find(key)
        if row is None or not (test := self._test.row(row)):
            return None
        val = self._val.row(row)
        params = _at(self._params, row)
        return TableEntry(
            key=key,
            val_mean=_mean(val),
            test_mean=_mean(test),
            val=val,
            test=test,
            n_runs=len(test) if self._n_runs is None else int(self._n_runs[row]),
            budget=self.budget,
            params=None if params is None else round(params),
            flops=_at(self._flops, row),
            train_time_s=_at(self._train_time_s, row),
            epoch=self.epoch,
        )

    def runs(self, key: str) -> dict[str, dict[str, float | None]]:
        """Return the single runs of a key by quantity and label, None where the table has no such run.

        Quantities are train, val and test accuracies and train_time_s, those of them that the table has by runs.
        """
        row = self._keys.find(key)
        if row is None:
            return {}
        found: dict[str, dict[str, float | None]] = {}
        for slot, labels in slots(self._metadata).items():
            if (slot.dataset, slot.budget, slot.epoch) == (
                self.dataset,
                self.budget,
                self.epoch,
            ) and MEAN not in labels:
                numbers = packed(self._batch, self._metadata, slot.name).places(row)
                found[slot.what] = dict(zip(labels, numbers, strict=True))
        return found

    def cell(self, key: str) -> str:
        """Return the cell of a key in words, empty where the table does not have them."""
        row = self._keys.find(key)
        return "" if row is None else cell(self._batch, row)

    def reference(self) -> Reference:
        """Return optima, the mean random cell, and what the table covers."""
        rows, val, test = self._means()
        weights = np.asarray(self._multiplicities[rows], dtype=np.float64)
        total = self._metadata["total_encodings"]
        return Reference(
            rows=len(rows),
            optimum_val=max(val),
            optimum_test=max(test),
            optimum_val_keys=self._best(rows, val),
            optimum_test_keys=self._best(rows, test),
            random_cell_val=float(np.average(val, weights=weights)),
            random_cell_test=float(np.average(test, weights=weights)),
            coverage=float(weights.sum()) / total if total else None,
            digest=self._metadata["digest"],
            budget=self.budget,
            dataset=self.dataset,
            space=self.space,
            source=self._metadata["source"],
        )

    def typical(self) -> Typical:
        """Return what a stored cell reaches."""
        _, val, test = self._means()
        return Typical(_mean(val), _mean(test), float(np.median(val)), float(np.median(test)))

    def _means(self) -> tuple[np.ndarray, list[float], list[float]]:
        """Return the stored rows, and their mean accuracies over runs, validation and test."""
        test = self._test.numbers()
        rows = np.flatnonzero(~np.isnan(test).all(axis=1))
        val_mean, test_mean = (
            [_mean(_finite(runs)) for runs in values[rows].tolist()] for values in (self._val.numbers(), test)
        )
        return rows, val_mean, test_mean

    def _best(self, rows: np.ndarray, means: list[float]) -> tuple[str, ...]:
        best = max(means)
        return tuple(sorted(self._keys[int(row)] for row, mean in zip(rows, means, strict=True) if mean == best))


def _optional(batch: pa.RecordBatch, metadata: dict[str, Any], *names: str) -> Packed | None:
    """Return the first of the columns that the file has."""
    return next((packed(batch, metadata, name) for name in names if name in batch.schema.names), None)


def _finite(runs: Iterable[float]) -> tuple[float, ...]:
    return tuple(value for value in runs if not math.isnan(value))


def _mean(values: Sequence[float]) -> float:
    """Return the mean, rounded once: it does not depend on the order of runs, and regret at an optimum is exactly 0."""
    return math.fsum(values) / len(values)


def _at(values: Packed | None, row: int) -> float | None:
    """Return the number of a row, a mean over its runs where there are several; None where there is none."""
    found = () if values is None else values.row(row)
    return _mean(found) if found else None
