"""A benchmark table in memory: what importers make, `write` stores and `export` spells out.

Its flat form, one named column each, is at once the layout of exported files, the input of the content digest and the
test of equality:

    key, cell, multiplicity              text, text, integer
    params, flops                        of any dataset; <dataset>/params, <dataset>/flops where datasets differ
    <dataset>/train_time_s/<budget>      seconds of the whole training
    <dataset>/<split>/<budget>/<run>     accuracies, fractions; split is train, val or test; not a number: no such run
    <dataset>/<split>/<budget>/n_runs    beside <run> = mean only: how many runs that mean is over
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

Split = Literal["train", "val", "test"]
SPLITS: dict[str, Split] = {"train": "train", "val": "val", "test": "test"}
"""In the order in which trained tables count them."""

MEAN = "mean"
"""The run label of a column that holds means because the single runs are not known."""

N_RUNS = "n_runs"

ACCURACY_NAME = re.compile(
    r"(?P<dataset>[^/]+)/(?P<split>train|val|test)/(?P<budget>[1-9]\d*)/(?P<run>(?!n_runs$)[^/]+)"
)
COUNT_NAME = re.compile(rf"([^/]+/(?:train|val|test)/[1-9]\d*)/{N_RUNS}")
SCALAR_NAME = re.compile(r"(?:[^/]+/)?(?:params|flops)|[^/]+/train_time_s/[1-9]\d*")


class Slot(NamedTuple):
    """What a measurement is of: a dataset, a split, and a training budget in epochs."""

    dataset: str
    split: Split
    budget: int

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.split}/{self.budget}"


@dataclass(frozen=True)
class Measurement:
    """Accuracies of one slot, fractions.

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


@dataclass(frozen=True)
class TableData:
    """Rows in any order.

    Attributes:
        cells: human-readable form of each key, may be empty.
        multiplicities: how many raw encodings of the space map to each key, 1 where unknown.
        scalars: `params`, `flops`, `<dataset>/params`, `<dataset>/flops`, `<dataset>/train_time_s/<budget>`; not a
            number where unknown.
        total_encodings: raw encodings of the space, None where unknown.
        source: where the numbers come from, in words.
        provenance: what was done to them and what to know about them.
    """

    space: str
    keys: tuple[str, ...]
    cells: tuple[str, ...]
    multiplicities: Int64[np.ndarray, " rows"]
    measurements: Mapping[Slot, Measurement]
    scalars: Mapping[str, Float64[np.ndarray, " rows"]] = field(default_factory=dict)
    total_encodings: int | None = None
    source: str = ""
    source_sha256: str | None = None
    provenance: tuple[str, ...] = ()


def flat_numbers(data: TableData) -> dict[str, np.ndarray]:
    """Return every numeric column of the flat form; missing numbers are the one canonical NaN."""
    columns: dict[str, np.ndarray] = {"multiplicity": data.multiplicities.astype(np.int64)}
    columns |= {name: canonical(values) for name, values in data.scalars.items()}
    for slot, measurement in data.measurements.items():
        for index, run in enumerate(measurement.runs):
            columns[f"{slot.name}/{run}"] = canonical(measurement.values[:, index])
        if measurement.n_runs is not None:
            columns[f"{slot.name}/{N_RUNS}"] = measurement.n_runs.astype(np.int64)
    return columns


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
        digest.update("".join(f"{len(texts[i])}:{texts[i]}" for i in order).encode())
    for name, values in sorted(flat_numbers(data).items()):
        digest.update(f"{len(name)}:{name}".encode())
        digest.update(values[order].astype(values.dtype.newbyteorder("<")).tobytes())
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
    key, count = Counter(keys).most_common(1)[0]
    if count > 1:
        raise ValueError(f"key {key!r} stands in {count} rows")


def _check_lengths(data: TableData) -> None:
    rows = len(data.keys)
    lengths = {"cell": len(data.cells)} | {name: len(values) for name, values in flat_numbers(data).items()}
    wrong = {name: length for name, length in lengths.items() if length != rows}
    if wrong:
        raise ValueError(f"expected {rows} rows in every column, got {wrong}")
    unknown = [name for name in data.scalars if not SCALAR_NAME.fullmatch(name)]
    if unknown:
        raise ValueError(f"unknown columns {unknown}")


def _check_measurement(slot: Slot, measurement: Measurement) -> None:
    runs, values = measurement.runs, measurement.values
    if any(not ACCURACY_NAME.fullmatch(f"{slot.name}/{run}") for run in runs):
        raise ValueError(f"expected <dataset>/<split>/<budget>/<run> without further '/', got {slot.name}, {runs}")
    if len(runs) != values.shape[1] or len(set(runs)) < len(runs) or not runs:
        raise ValueError(f"{slot.name} has {values.shape[1]} columns for the runs {list(runs)}")
    outside = values[(values < 0) | (values > 1)]
    if outside.size:
        raise ValueError(f"{slot.name} holds {outside[0]:g}, expected fractions in [0, 1] (percent? then say so)")
    if (MEAN in runs) != (measurement.n_runs is not None) or (MEAN in runs and len(runs) > 1):
        raise ValueError(f"{slot.name}/{MEAN} stands alone with {slot.name}/{N_RUNS}, got the runs {list(runs)}")
    if measurement.n_runs is not None and ((measurement.n_runs > 0) != measurement.present()).any():
        raise ValueError(f"{slot.name}/{N_RUNS} is positive exactly where there is a mean; it is not")


def _check_both_splits(data: TableData) -> None:
    """A cell with only one of validation and test would need a guess, so a table has both or neither of each cell."""
    for slot, measurement in data.measurements.items():
        if slot.split == "train":
            continue
        other = slot._replace(split="val" if slot.split == "test" else "test")
        if other not in data.measurements:
            raise ValueError(f"{slot.name} needs {other.name} beside it")
        lonely = np.flatnonzero(measurement.present() & ~data.measurements[other].present())
        if lonely.size:
            raise ValueError(f"key {data.keys[lonely[0]]!r} has runs of {slot.name} and none of {other.name}")
