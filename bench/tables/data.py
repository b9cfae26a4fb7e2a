"""A benchmark table in memory: what importers make, `write` stores and `export` spells out.

Its flat form, one named column each, is at once the layout of exported files, the input of the content digest and the
test of equality:

    key, cell, multiplicity              text, text, integer
    params, flops                        of any dataset; <dataset>/params, <dataset>/flops where datasets differ
    <dataset>/<what>/<budget>/<run>      one training each; not a number: no such run. <what> is train, val or test, an
                                         accuracy as a fraction, or train_time_s, seconds since the training began
    <dataset>/<what>/<budget>/n_runs     beside <run> = mean only: how many runs that mean is over
    <dataset>/train_time_s/<budget>      seconds where only one number a cell is known

<budget> is the number of epochs of the whole training, and the value is of its end. 108@54 is epoch 54 of a training of
108 epochs, whose learning rate is far from its end: not what a training of 54 epochs reaches, so never a budget.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from bench.tables.packing import Packed

Quantity = Literal["train", "val", "test", "train_time_s"]
TIME: Quantity = "train_time_s"
SPLITS: dict[str, Quantity] = {"train": "train", "val": "val", "test": "test"}
"""Accuracies, in the order in which trained tables count them."""
QUANTITIES: dict[str, Quantity] = SPLITS | {TIME: TIME}

Report = Callable[[int, int], None]
"""Is told how much of how much is read: bytes, files."""

MEAN = "mean"
"""The run label of a column that holds means because the single runs are not known."""

N_RUNS = "n_runs"

_WHEN = r"(?P<budget>[1-9]\d*)(?:@(?P<epoch>0|[1-9]\d*))?"
_WHAT = rf"(?P<dataset>[^/]+)/(?P<what>{'|'.join(QUANTITIES)})/{_WHEN}"
RUN_NAME = re.compile(rf"{_WHAT}/(?P<run>(?!{N_RUNS}$)[^/]+)")
COUNT_NAME = re.compile(rf"(?P<slot>{_WHAT})/{N_RUNS}")
SCALAR_NAME = re.compile(rf"(?:[^/]+/)?(?:params|flops)|[^/]+/{TIME}/{_WHEN}")


class Slot(NamedTuple):
    """What a measurement is of: a dataset, a quantity, a training budget in epochs, and when in that training.

    Attributes:
        epoch: None at the end of the training; else the epoch of it, which is less than the budget.
    """

    dataset: str
    what: Quantity
    budget: int
    epoch: int | None = None

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.what}/{self.budget}" + ("" if self.epoch is None else f"@{self.epoch}")


def slot_of(match: re.Match[str]) -> Slot:
    """Return the slot that a name of a column speaks of."""
    epoch = None if match["epoch"] is None else int(match["epoch"])
    return Slot(match["dataset"], QUANTITIES[match["what"]], int(match["budget"]), epoch)


def in_order(slots: Iterable[Slot]) -> list[Slot]:
    """Return slots in the order of their fields; the end of a training comes after its epochs."""
    return sorted(slots, key=lambda slot: (*slot[:3], math.inf if slot.epoch is None else slot.epoch))


@dataclass(frozen=True)
class Measurement:
    """Numbers of one slot: fractions, or seconds.

    Attributes:
        values: not a number where a run does not exist.
        runs: label of each column, a seed or an index; `("mean",)` where only the mean over runs is known.
        n_runs: runs behind each mean, 0 where there is none; given with `("mean",)` and only then.
    """

    values: Float64[np.ndarray, "rows runs"]
    runs: tuple[str, ...]
    n_runs: Int64[np.ndarray, " rows"] | None = None

    def present(self) -> Bool[np.ndarray, " rows"]:
        """Return which rows have a run."""
        return ~np.isnan(self.values).all(axis=1)


class Held(NamedTuple):
    """A measurement as it is stored."""

    packed: Packed
    runs: tuple[str, ...]
    n_runs: Int64[np.ndarray, " rows"] | None = None


class Measurements(Mapping[Slot, Measurement]):
    """Measurements that are unpacked when they are asked for, and not kept: all of them need not fit in memory."""

    def __init__(self, held: Mapping[Slot, Held]) -> None:
        self.held = dict(held)

    def __getitem__(self, slot: Slot) -> Measurement:
        packed, runs, n_runs = self.held[slot]
        return Measurement(packed.numbers(), runs, n_runs)

    def __iter__(self) -> Iterator[Slot]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)


BUILT = "built by nas-stability"
"""How the source of a table ends whose cells were trained here, and not by its benchmark's protocol."""


@dataclass(frozen=True)
class TableData:
    """Rows in any order.

    Attributes:
        cells: human-readable form of each key, may be empty.
        multiplicities: how many raw encodings of the space map to each key, 1 where unknown.
        scalars: `params`, `flops`, `<dataset>/params`, `<dataset>/flops`, `<dataset>/train_time_s/<budget>`; not a
            number where unknown. Seconds are either here or among the measurements.
        total_encodings: raw encodings of the space, None where unknown.
        source: where the numbers come from, in words.
        provenance: what was done to them and what to know about them.
    """

    space: str
    keys: tuple[str, ...]
    cells: Sequence[str]
    multiplicities: Int64[np.ndarray, " rows"]
    measurements: Mapping[Slot, Measurement]
    scalars: Mapping[str, Float64[np.ndarray, " rows"]] = field(default_factory=dict)
    total_encodings: int | None = None
    source: str = ""
    source_sha256: str | None = None
    provenance: tuple[str, ...] = ()


def flat_numbers(data: TableData) -> dict[str, np.ndarray]:
    """Return every numeric column of the flat form; missing numbers are the one canonical NaN."""
    return {name: numbers() for name, numbers in columns(data).items()}


def columns(data: TableData) -> dict[str, Callable[[], np.ndarray]]:
    """Return what makes each numeric column, so that they need not all be in memory."""
    columns: dict[str, Callable[[], np.ndarray]] = {"multiplicity": lambda: data.multiplicities.astype(np.int64)}
    columns |= {name: partial(canonical, values) for name, values in data.scalars.items()}
    for slot, measurement in data.measurements.items():
        for index, run in enumerate(measurement.runs):
            columns[f"{slot.name}/{run}"] = partial(_run, data, slot, index)
        if measurement.n_runs is not None:
            columns[f"{slot.name}/{N_RUNS}"] = partial(measurement.n_runs.astype, np.int64)
    return columns


def _run(data: TableData, slot: Slot, index: int) -> np.ndarray:
    return canonical(data.measurements[slot].values[:, index])


def canonical(values: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """Return a copy with one bit pattern for NaN and one for zero: equal numbers are equal bytes."""
    return np.where(np.isnan(values), np.nan, values) + 0.0


def content_digest(data: TableData) -> str:
    """Return the sha256 of the flat form with rows in the order of their keys and columns in the order of their names.

    The same numbers have the same digest whatever file, row order or column order they came from.
    """
    order = sorted(range(len(data.keys)), key=data.keys.__getitem__)
    digest = hashlib.sha256()
    for texts in (data.keys, data.cells):
        for row in order:
            digest.update(f"{len(texts[row])}:{texts[row]}".encode())
    for name, numbers in sorted(columns(data).items()):
        values = numbers()[order]
        digest.update(f"{len(name)}:{name}".encode())
        digest.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def check(data: TableData) -> None:
    """Raise ValueError where the data is not a table, saying what and where."""
    rows = len(data.keys)
    if rows == 0 or not data.measurements:
        raise ValueError(f"a table needs rows and accuracies, got {rows} rows, {len(data.measurements)} measurements")
    _check_keys(data.keys)
    _check_lengths(data)
    wrong = data.multiplicities[(data.multiplicities < 1) | (data.multiplicities >= 2**31)]
    if wrong.size:
        raise ValueError(f"expected multiplicities from 1 to 2^31 - 1, got {wrong[0]}")
    for slot, measurement in data.measurements.items():
        _check_measurement(slot, measurement)
    _check_both_splits(data)


def _check_keys(keys: tuple[str, ...]) -> None:
    if "" in keys:
        raise ValueError(f"row {keys.index('')} has an empty key")
    if len(set(keys)) < len(keys):
        key, count = Counter(keys).most_common(1)[0]
        raise ValueError(f"key {key!r} stands in {count} rows")


def _check_lengths(data: TableData) -> None:
    lengths = {"cell": len(data.cells), "multiplicity": len(data.multiplicities)}
    lengths |= {name: len(values) for name, values in data.scalars.items()}
    for slot, measurement in data.measurements.items():
        lengths[slot.name] = len(measurement.values)
        if measurement.n_runs is not None:
            lengths[f"{slot.name}/{N_RUNS}"] = len(measurement.n_runs)
    rows = len(data.keys)
    wrong = {name: length for name, length in lengths.items() if length != rows}
    if wrong:
        raise ValueError(f"expected {rows} rows in every column, got {wrong}")
    unknown = [name for name in data.scalars if not SCALAR_NAME.fullmatch(name)]
    if unknown:
        raise ValueError(f"unknown columns {unknown}")
    twice = [slot.name for slot in data.measurements if slot.name in data.scalars]
    if twice:
        raise ValueError(f"expected {twice[0]} either of single runs or one number a cell, got both")


def _check_measurement(slot: Slot, measurement: Measurement) -> None:
    runs, values = measurement.runs, measurement.values
    if any(not RUN_NAME.fullmatch(f"{slot.name}/{run}") for run in runs):
        raise ValueError(f"expected <dataset>/<what>/<budget>/<run> without further '/', got {slot.name}, {runs}")
    if slot.epoch is not None and slot.epoch >= slot.budget:
        raise ValueError(f"expected an epoch before the end in <budget>@<epoch>, got {slot.name}")
    if len(runs) != values.shape[1] or len(set(runs)) < len(runs) or not runs:
        raise ValueError(f"{slot.name} has {values.shape[1]} columns for the runs {list(runs)}")
    _check_values(slot, values)
    if (MEAN in runs) != (measurement.n_runs is not None) or (MEAN in runs and len(runs) > 1):
        raise ValueError(f"{slot.name}/{MEAN} stands alone with {slot.name}/{N_RUNS}, got the runs {list(runs)}")
    if measurement.n_runs is not None and ((measurement.n_runs > 0) != measurement.present()).any():
        raise ValueError(f"{slot.name}/{N_RUNS} is positive exactly where there is a mean; it is not")


def _check_values(slot: Slot, values: Float64[np.ndarray, "rows runs"]) -> None:
    if slot.what == TIME:
        outside = values[(values < 0) | np.isinf(values)]
        if outside.size:
            raise ValueError(f"{slot.name} holds {outside[0]:g}, expected seconds, 0 or more")
        return
    outside = values[(values < 0) | (values > 1)]
    if outside.size:
        raise ValueError(f"{slot.name} holds {outside[0]:g}, expected fractions in [0, 1] (percent? then say so)")


def _check_both_splits(data: TableData) -> None:
    """A cell with only one of validation and test would need a guess, so a table has both or neither of each cell."""
    for slot in data.measurements:
        if slot.what not in {"val", "test"}:
            continue
        other = slot._replace(what="val" if slot.what == "test" else "test")
        if other not in data.measurements:
            raise ValueError(f"{slot.name} needs {other.name} beside it")
        lonely = np.flatnonzero(data.measurements[slot].present() & ~data.measurements[other].present())
        if lonely.size:
            raise ValueError(f"key {data.keys[lonely[0]]!r} has runs of {slot.name} and none of {other.name}")
