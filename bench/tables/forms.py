"""Reading the forms benchmark tables come in, recognised by their content, never by their name.

A form is a whole file or folder with a layout of its own (`FILE_FORMS`, tried first), or named columns in a file:

- `nasbench_only108.tfrecord`, `nasbench_full.tfrecord`: see `nasbench101`;
- a compact table: of a whole benchmark, for one of its spaces;
- NATS-Bench's and NAS-Bench-201's folder, tar, pickles and `.pth`: see `official201`;
- `nasbench201.parquet`: NAS-Bench-201 / NATS-tss (Dong and Yang 2020, https://arxiv.org/abs/2001.00326), percent;
- `nasbench101_slice.parquet`: NAS-Bench-101 (Ying et al. 2019, https://arxiv.org/abs/1902.09635), fractions;
- the flat layout, named columns as parquet, CSV or JSON lines: see `data` and `flat`.
"""

import csv
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from bench.tables import extracts, flat, jsonl, nasbench101, official201
from bench.tables.arrow import load
from bench.tables.cells101 import Cells
from bench.tables.data import Measurement, Report, TableData, check

Unit = Literal["fraction", "percent"]

PARTS = {nasbench101.SPACE: frozenset({"s1", "s2", "s3"})}
"""Benchmarks whose tables hold the rows of several spaces."""


class FileForm(NamedTuple):
    """A layout of a whole file or folder.

    Attributes:
        name: in words, for messages.
        recognises: looks at the content, reads little, and is false for anything it does not know.
        read: returns every row of it, with its space, source and `source_sha256`; ValueError names file and place.
        space: the space it is of, None where the content has to be read to know.
    """

    name: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Report], TableData]
    space: str | None


def _is_arrow(path: Path) -> bool:
    return path.is_file() and _magic(path) == b"ARROW1"


FILE_FORMS: tuple[FileForm, ...] = (
    FileForm("a compact table, .arrow", _is_arrow, lambda path, _report: load(path), None),
    FileForm("NAS-Bench-101, .tfrecord", nasbench101.recognises, nasbench101.read, nasbench101.SPACE),
    FileForm("a folder of NATS-Bench", official201.is_folder, official201.read_folder, "nb201"),
    FileForm("a tar of such a folder", official201.is_tar, official201.read_tar, "nb201"),
    FileForm("NATS-Bench in one file", official201.is_compressed_pickle, official201.read_compressed_pickle, "nb201"),
    FileForm("NAS-Bench-201 by torch", official201.is_torch, official201.read_torch, "nb201"),
    FileForm("a bare pickle of them", official201.is_pickle, official201.read_pickle, "nb201"),
)


class Form(NamedTuple):
    """Named columns: those it is recognised by, how it is read, and the space it is of (None: it does not say)."""

    columns: frozenset[str]
    read: Callable[[pa.Table, Unit], TableData]
    space: str | None


def import_table(
    path: Path,
    space_name: str,
    multiplicities: Mapping[str, int],
    total_encodings: int | None,
    unit: Unit = "fraction",
    report: Report = lambda _done, _total: None,
) -> TableData:
    """Read a file or folder as the table of a space.

    Args:
        path: in one of the forms.
        space_name: the space the table is to be of; a file of another is refused, but one of a whole has its `PARTS`.
        multiplicities: every key of the space to its number of raw encodings; other rows are left out. Empty: all rows
            are kept, multiplicity 1. A file with a column `multiplicity` keeps its own, and all its rows.
        total_encodings: raw encodings of the space, None where unknown.
        unit: of the accuracies in the flat layout; the other layouts have theirs.
        report: told how far reading is, by the forms that take long.
    """
    data, own = _read(path, unit, report)
    if data.space not in {"", space_name} and space_name not in PARTS.get(data.space, ()):
        raise ValueError(f"{path.name} is a table of space {data.space!r}, not of {space_name!r}")
    data = _of_space(data, multiplicities, own, f"{path.name} belong to {space_name}")
    data = replace(
        data,
        space=space_name,
        total_encodings=data.total_encodings if total_encodings is None else total_encodings,
        source=data.source or path.name,
        source_sha256=data.source_sha256 or sha256(path),
    )
    check(data)
    return data


def _read(path: Path, unit: Unit, report: Report) -> tuple[TableData, bool]:
    """Return the rows of a file or folder, and whether it has multiplicities of its own."""
    if (whole := file_form(path)) is not None:
        return whole.read(path, report), False
    table = read_columns(path)
    return form_of(table, path).read(table, unit), "multiplicity" in table.column_names


def file_form(path: Path) -> FileForm | None:
    """Return the form of a whole file or folder, None where it has none of them."""
    return next((form for form in FILE_FORMS if form.recognises(path)), None)


def space_of(path: Path) -> str | None:
    """Return the space a file or folder says it is of, None where it does not say."""
    if (whole := file_form(path)) is not None:
        return whole.space
    table = read_columns(path)
    form = form_of(table, path)
    return form.space or flat.loose_fields(table).get("space")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_columns(path: Path) -> pa.Table:
    """Read a parquet, CSV or JSON lines file, told apart by content."""
    if path.is_dir():
        raise FileNotFoundError(f"the folder {path} has none of the forms of docs/tables.md")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file at {path}")
    from pyarrow import parquet  # takes long, and most commands import no table

    try:
        if jsonl.begins(_magic(path)):
            return jsonl.read(path)
        return parquet.read_table(path) if _magic(path)[:4] == b"PAR1" else _read_csv(path)
    except (pa.ArrowException, UnicodeDecodeError, OSError, StopIteration, csv.Error) as error:
        raise ValueError(
            f"{path} is neither parquet nor CSV that can be read: {str(error) or 'it is empty'}"
        ) from error


def _magic(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(6)


def _read_csv(path: Path) -> pa.Table:
    from pyarrow import csv as arrow_csv

    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file))
    types = {name: flat.type_of(name) for name in header if flat.type_of(name) is not None}
    return arrow_csv.read_csv(
        path,
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(column_types=types),
    )


def form_of(table: pa.Table, path: Path) -> Form:
    """Return the form a file has, by its columns."""
    form = next((form for form in _forms() if form.columns <= set(table.column_names)), None)
    if form is None:
        raise ValueError(
            f"{path} has no known form: expected the columns of nasbench201.parquet, of nasbench101_slice.parquet, or "
            f"'key' and '<dataset>/<split>/<budget>/<run>'; its first columns are {table.column_names[:6]}"
        )
    return form


def _forms() -> tuple[Form, ...]:
    return (
        Form(frozenset({"arch_str", "n_runs", "c10v_valid_s777", "c10_test_s777"}), extracts.read_201, "nb201"),
        Form(frozenset({"hash", "adj_bits", "ops", "val_0", "test_0"}), extracts.read_101, None),
        Form(frozenset({"key"}), flat.from_columns, None),
    )


def _of_space(data: TableData, multiplicities: Mapping[str, int], own: bool, belonging: str) -> TableData:
    """Return the rows of the space; rows keep their `own` multiplicities where the file has them."""
    if not multiplicities:
        return data
    rows = [row for row, key in enumerate(data.keys) if key in multiplicities]
    if not rows:
        raise ValueError(f"none of the {len(data.keys)} cells of {belonging}")
    if own:
        return data
    counts = np.array([multiplicities[data.keys[row]] for row in rows], dtype=np.int64)
    return replace(_take(data, rows), multiplicities=counts)


def _take(data: TableData, rows: Sequence[int]) -> TableData:
    measurements = {
        slot: Measurement(old.values[rows], old.runs, None if old.n_runs is None else old.n_runs[rows])
        for slot, old in data.measurements.items()
    }
    return replace(
        data,
        keys=tuple(data.keys[row] for row in rows),
        cells=data.cells.take(rows) if isinstance(data.cells, Cells) else tuple(data.cells[row] for row in rows),
        multiplicities=data.multiplicities[rows],
        measurements=measurements,
        scalars={name: values[rows] for name, values in data.scalars.items()},
    )
