"""The file of a compact benchmark table: Arrow IPC, uncompressed, one record batch, memory-mapped.

Read once from whatever a user has (`forms`), then opened in milliseconds with nothing decoded but the rows asked for.
Rows are sorted by the digest of the key, so that a query is a binary search in the file (`keys`); measurements are
fixed-size lists with one place a run, in as few bytes as give the same bits back (`packing`). Considered instead: .npy
per column (thirty files that can fall out of step, no text, no schema), SQLite (a query parses rows and copies; whole
columns are slow), parquet (smaller, but encoded pages cannot be mapped: every open decodes everything), .npz (zipped
members cannot be mapped either).

    digest, key or tail           see `keys`
    cell, multiplicity            text, or uint32 as in `cells101`; int32
    <dataset>/<what>/<budget>     fixed-size list, one a run; .../n_runs beside lists of means, int32
    params, <dataset>/flops, …    numbers, see `data`

One key of the schema's metadata holds the rest as JSON: format, space, runs of each list, what counts are counts of,
encodings of the space, source, provenance and the digest of the content; another the digest of this header, checked at
every opening. The numbers are checked against theirs where all of them are read: `info`, `import`.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.tables import keys
from bench.tables.cells101 import Cells, words
from bench.tables.data import N_RUNS, Held, Measurement, Measurements, Slot, TableData, check, content_digest, in_order
from bench.tables.packing import Packed, pack

ARROW = b"ARROW1"
FORMAT = 2
METADATA = b"nas-stability.table"
HEADER = b"nas-stability.header"

_NUMBERS: dict[str, str] = {
    "float": "f4",
    "double": "f8",
    "uint16": "u2",
    "uint32": "u4",
    "uint64": "u8",
    "int32": "i4",
}


def write(path: Path, data: TableData) -> None:
    """Write a table: the whole file appears at once or not at all."""
    check(data)
    batch = _batch(data)

    def save(temporary: Path) -> None:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)

    replace(path, save)


def replace(path: Path, save: Callable[[Path], None]) -> None:
    """Have a file saved beside its place, then moved there in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        save(temporary)
        temporary.replace(path)


def mapped(path: Path) -> tuple[pa.RecordBatch, dict[str, Any]]:
    """Return the mapped record batch and the metadata of a table; nothing is read but the schema."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no table at {path}")
    try:
        with path.open("rb") as file:
            if file.read(len(ARROW)) != ARROW:
                raise ValueError("it is no Arrow file; python -m bench.tables import makes a table of other files")
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        text, header = ((reader.schema.metadata or {}).get(name) for name in (METADATA, HEADER))
        if text is None:
            raise ValueError("it is an Arrow file of something else")
        if (found := json.loads(text)["format"]) != FORMAT:
            raise ValueError(f"it has format {found}, expected {FORMAT}; import it again")
        if header != _header(reader.schema, text):
            raise ValueError("its header is not what was written")
        return reader.get_batch(0), json.loads(text)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or not a benchmark table: {error}") from error


def _header(schema: pa.Schema, text: bytes) -> bytes:
    """Return the digest of all that is needed to find the numbers."""
    columns = "\n".join(f"{field.name}\t{field.type}" for field in schema)
    return hashlib.sha256(columns.encode() + text).hexdigest().encode()


def packed(batch: pa.RecordBatch, metadata: dict[str, Any], name: str) -> Packed:
    """Return numbers as they lie in the file, "rows" or "rows runs"; never a copy."""
    return Packed(column(batch, name), metadata["per"].get(name, 1))


def column(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """Return a view into the file, "rows" or "rows runs"; never a copy."""
    array = batch.column(name)
    if not pa.types.is_fixed_size_list(array.type):
        return _view(array)
    return _view(array.values).reshape(len(array), array.type.list_size)


def _view(array: pa.Array) -> np.ndarray:
    """Return the numbers of an array as they lie in the file; `to_numpy` would import pandas, 300 ms and 40 MB."""
    return np.frombuffer(array.buffers()[1], _NUMBERS[str(array.type)], len(array))


def slots(metadata: dict[str, Any]) -> dict[Slot, tuple[str, ...]]:
    """Return the run labels of every measurement."""
    return {Slot(*slot): tuple(runs) for *slot, runs in metadata["measurements"]}


def budgets(metadata: dict[str, Any]) -> dict[str, list[int]]:
    """Return the budgets of every dataset that have accuracies at the end of the training, ascending."""
    ends = [slot for slot in slots(metadata) if slot.epoch is None and slot.what == "test"]
    pairs = sorted({(slot.dataset, slot.budget) for slot in ends})
    return {dataset: [budget for name, budget in pairs if name == dataset] for dataset, _ in pairs}


def load(path: Path) -> TableData:
    """Read a table, and check its content against its digest; measurements are read again when they are asked for."""
    batch, metadata = mapped(path)
    try:
        batch.validate(full=True)
        data = _data(batch, metadata)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if (found := content_digest(data)) != metadata["digest"]:
        raise ValueError(f"{path} is damaged: expected content {metadata['digest'][:12]}, got {found[:12]}")
    return data


def _data(batch: pa.RecordBatch, metadata: dict[str, Any]) -> TableData:
    held = {slot: _held(batch, metadata, slot, runs) for slot, runs in slots(metadata).items()}
    return TableData(
        keys=keys.Keys(batch).all(),
        cells=_cells(batch),
        multiplicities=column(batch, "multiplicity").astype(np.int64),
        measurements=Measurements(held),
        scalars={name: packed(batch, metadata, name).numbers() for name in metadata["scalars"]},
        **loose(metadata),
    )


def _held(batch: pa.RecordBatch, metadata: dict[str, Any], slot: Slot, runs: tuple[str, ...]) -> Held:
    n_runs = f"{slot.name}/{N_RUNS}"
    counts = column(batch, n_runs).astype(np.int64) if n_runs in batch.schema.names else None
    return Held(packed(batch, metadata, slot.name), runs, counts)


def _cells(batch: pa.RecordBatch) -> Sequence[str]:
    stored = batch.column("cell")
    return Cells(column(batch, "cell")) if pa.types.is_uint32(stored.type) else tuple(stored.to_pylist())


def cell(batch: pa.RecordBatch, row: int) -> str:
    """Return the cell of a row in words."""
    stored = batch.column("cell")[row].as_py()
    return words(stored) if isinstance(stored, int) else stored


def loose(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `TableData` that are neither keys nor numbers."""
    fields = {name: metadata[name] for name in ("space", "total_encodings", "source", "source_sha256")}
    return fields | {"provenance": tuple(metadata["provenance"])}


def describe(data: TableData) -> dict[str, Any]:
    """Return the metadata of a table."""
    return {
        "format": FORMAT,
        "space": data.space,
        "measurements": [[*slot, list(data.measurements[slot].runs)] for slot in in_order(data.measurements)],
        "scalars": sorted(data.scalars),
        "total_encodings": data.total_encodings,
        "source": data.source,
        "source_sha256": data.source_sha256,
        "provenance": list(data.provenance),
        "digest": content_digest(data),
    }


def _batch(data: TableData) -> pa.RecordBatch:
    stored = keys.columns(data.keys)
    order = stored.order
    columns: dict[str, pa.Array] = {
        "digest": stored.digest,
        stored.name: stored.rest,
        "cell": _stored_cells(data.cells, order),
        "multiplicity": pa.array(data.multiplicities[order].astype(np.int32)),
    }
    per: dict[str, int] = {}
    for name, values in sorted(data.scalars.items()):
        columns[name], per[name] = pack(values[order])
    for slot in in_order(data.measurements):
        (numbers, per[slot.name]), runs, n_runs = _in_order(data.measurements, slot, order)
        columns[slot.name] = pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), len(runs))
        if n_runs is not None:
            columns[f"{slot.name}/{N_RUNS}"] = pa.array(n_runs.astype(np.int32))
    described = describe(data) | {"per": {name: count for name, count in per.items() if count != 1}}
    text = json.dumps(described, sort_keys=True).encode()
    batch = pa.RecordBatch.from_pydict(columns)
    return batch.replace_schema_metadata({METADATA: text, HEADER: _header(batch.schema, text)})


def _in_order(measurements: Mapping[Slot, Measurement], slot: Slot, order: np.ndarray) -> Held:
    """Return a measurement packed; it is not copied where it lies packed and in order already."""
    if isinstance(measurements, Measurements) and bool((order == np.arange(len(order))).all()):
        return measurements.held[slot]
    values, runs, n_runs = (getattr(measurements[slot], name) for name in ("values", "runs", "n_runs"))
    return Held(pack(values[order]), runs, None if n_runs is None else n_runs[order])


def _stored_cells(cells: Sequence[str], order: np.ndarray) -> pa.Array:
    if isinstance(cells, Cells):
        return pa.array(cells.numbers[order])
    return pa.array([cells[row] for row in order], pa.string())
