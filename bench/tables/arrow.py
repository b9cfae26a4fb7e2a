"""The file of a compact benchmark table: Arrow IPC, uncompressed, one record batch, memory-mapped.

Read once from whatever a user has (`forms`), then opened in milliseconds with nothing decoded. Rows are sorted by a
64-bit digest of the key, so that a query is a binary search in the file; accuracies are fixed-size lists with one place
a run, NaN where the run does not exist. Considered instead: .npy per column (thirty files that can fall out of step, no
text, no schema), SQLite (a query parses rows and copies; whole columns are slow), parquet (smaller, but encoded pages
cannot be mapped: every open decodes everything), .npz (zipped members cannot be mapped either).

    digest                        uint64, the first 8 bytes of the md5 of the key, big-endian
    key, cell, multiplicity       text, text, int32
    <dataset>/<split>/<budget>    fixed-size list of float64, one a run; .../n_runs beside lists of means
    params, <dataset>/flops, …    float64, see `data`

One key of the schema's metadata holds the rest as JSON: format, space, runs of each list, encodings of the space,
source, provenance and the digest of the content.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.tables.data import N_RUNS, Measurement, Slot, TableData, canonical, check, content_digest

FORMAT = 1
METADATA = b"nas-stability.table"

_NUMBERS = {"uint64": np.uint64, "int32": np.int32, "double": np.float64}


def key_digest(key: str) -> np.uint64:
    """Return the first 8 bytes of the md5 of a key as a big-endian number."""
    return np.uint64(int.from_bytes(hashlib.md5(key.encode(), usedforsecurity=False).digest()[:8], "big"))


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
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        metadata = _metadata(reader.schema)
        if metadata is not None and metadata["format"] == FORMAT:
            return reader.get_batch(0), metadata
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged or not a benchmark table: {error}") from error
    if metadata is None:
        raise ValueError(f"{path} is an Arrow file, but not a benchmark table of this project")
    raise ValueError(f"{path} has format {metadata['format']}, expected {FORMAT}; import it again")


def _metadata(schema: pa.Schema) -> dict[str, Any] | None:
    text = (schema.metadata or {}).get(METADATA)
    return None if text is None else json.loads(text)


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
    """Return the stored budgets of every dataset, ascending."""
    pairs = sorted({(slot.dataset, slot.budget) for slot in slots(metadata)})
    return {dataset: [budget for name, budget in pairs if name == dataset] for dataset, _ in pairs}


def load(path: Path) -> TableData:
    """Read a whole table into memory, and check its content against its digest."""
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
    measurements = {}
    for slot, runs in slots(metadata).items():
        n_runs = f"{slot.name}/{N_RUNS}"
        counts = column(batch, n_runs).astype(np.int64) if n_runs in batch.schema.names else None
        measurements[slot] = Measurement(column(batch, slot.name), runs, counts)
    return TableData(
        keys=tuple(batch.column("key").to_pylist()),
        cells=tuple(batch.column("cell").to_pylist()),
        multiplicities=column(batch, "multiplicity").astype(np.int64),
        measurements=measurements,
        scalars={name: column(batch, name) for name in metadata["scalars"]},
        **loose(metadata),
    )


def loose(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `TableData` that are neither keys nor numbers."""
    fields = {name: metadata[name] for name in ("space", "total_encodings", "source", "source_sha256")}
    return fields | {"provenance": tuple(metadata["provenance"])}


def describe(data: TableData) -> dict[str, Any]:
    """Return the metadata of a table."""
    return {
        "format": FORMAT,
        "space": data.space,
        "measurements": [[*slot, list(measurement.runs)] for slot, measurement in sorted(data.measurements.items())],
        "scalars": sorted(data.scalars),
        "total_encodings": data.total_encodings,
        "source": data.source,
        "source_sha256": data.source_sha256,
        "provenance": list(data.provenance),
        "digest": content_digest(data),
    }


def _batch(data: TableData) -> pa.RecordBatch:
    digests = np.array([key_digest(key) for key in data.keys], dtype=np.uint64)
    order = sorted(range(len(digests)), key=lambda row: (int(digests[row]), data.keys[row]))
    columns: dict[str, pa.Array] = {
        "digest": pa.array(digests[order]),
        "key": pa.array([data.keys[row] for row in order], pa.string()),
        "cell": pa.array([data.cells[row] for row in order], pa.string()),
        "multiplicity": pa.array(data.multiplicities[order].astype(np.int32)),
    }
    columns |= {name: pa.array(canonical(values[order])) for name, values in sorted(data.scalars.items())}
    for slot, measurement in sorted(data.measurements.items()):
        flat = pa.array(canonical(measurement.values[order]).ravel())
        columns[slot.name] = pa.FixedSizeListArray.from_arrays(flat, len(measurement.runs))
        if measurement.n_runs is not None:
            columns[f"{slot.name}/{N_RUNS}"] = pa.array(measurement.n_runs[order].astype(np.int32))
    metadata = {METADATA: json.dumps(describe(data), sort_keys=True)}
    return pa.RecordBatch.from_pydict(columns).replace_schema_metadata(metadata)
