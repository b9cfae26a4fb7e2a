"""The tidy table of a results folder as one parquet file, and back: `results`/records.parquet.

Reading a million records as JSON takes minutes, as columns seconds. The file holds for every run a fingerprint (sizes
and times of its files), so that `table` reads runs anew that have changed, or came later, and never states what is old.
`python -m analysis.export` writes the file; other tools can read it as it is.
"""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from analysis import _files
from analysis.load import ENDS, arranged, dtype, read_runs, run_folders, tidy

log = logging.getLogger(__name__)

FORMAT = 5
KEY = b"nas-stability"
FILES = ("spec.json", "table.json", "records.jsonl", *ENDS)
NAME = "records.parquet"
CHUNK = 200
"""Runs whose records are in memory as objects at one time."""
Fingerprints = dict[str, list[list[int]]]
"""Run folder's name to size and modification time (ns) of each of `FILES`; nothing for an absent one."""


def table(results: Path) -> pd.DataFrame:
    """Return one row a record of all runs (`load.tidy`), from the parquet file where its fingerprints still hold."""
    folders = run_folders(results)
    stored = _open(results / NAME)
    if stored is None:
        return tidy(read_runs(folders))
    fingerprints, warnings = stored["runs"], stored["warnings"]
    current = [folder for folder in folders if fingerprints.get(folder.name) == fingerprint(folder)]
    for folder in current:
        for warning in warnings.get(folder.name, []):
            log.warning(warning)
    fresh = set(folders) - set(current)
    new = read_runs([folder for folder in folders if folder in fresh])
    old = _read(results / NAME, {folder.name for folder in current})
    if not new:
        return old
    return _together([old, tidy(new)])


def _together(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return several tidy tables as one."""
    names = list(dict.fromkeys(name for part in parts for name in part.columns))
    return arranged(pd.concat([_with(part, names) for part in parts], ignore_index=True))


def _with(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return a table with all the named columns; what it lacks is missing."""
    nothing = np.full(len(frame), None)
    absent = {name: pd.Series(nothing, frame.index, dtype=dtype(name)) for name in names if name not in frame}
    return pd.concat([frame, pd.DataFrame(absent, index=frame.index)], axis="columns")[list(names)]


def export(results: Path, out: Path) -> pd.DataFrame:
    """Write all runs as parquet and return the table."""
    folders = run_folders(results)
    before = {folder.name: fingerprint(folder) for folder in folders}
    parts = [tidy([])]
    kept: Fingerprints = {}
    warnings: dict[str, list[str]] = {}
    for start in range(0, len(folders), CHUNK):
        runs = read_runs(folders[start : start + CHUNK])
        parts.append(tidy(runs))
        kept |= {run.folder.name: before[run.folder.name] for run in runs}
        warnings |= {run.folder.name: list(run.warnings) for run in runs if run.warnings}
    frame = _together(parts)
    metadata = {KEY: json.dumps({"format": FORMAT, "runs": kept, "warnings": warnings}).encode()}
    columns = {name: _array(name, frame[name]) for name in frame.columns}
    _files.put_table(out, pa.table(columns).replace_schema_metadata(metadata))
    return frame


def fingerprint(folder: Path) -> list[list[int]]:
    """Return size and modification time of a run's files, in ns."""
    found = {entry.name: entry.stat() for entry in os.scandir(folder) if entry.name in FILES}
    return [[found[name].st_size, found[name].st_mtime_ns] if name in found else [] for name in FILES]


def _array(name: str, values: pd.Series) -> pa.Array:
    """Return a column; text as a dictionary, because most text is the same for a whole run.

    Raises:
        ValueError: the column mixes types.
    """
    try:
        array = pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"expected one type in the column {name!r}, got several ({error})") from error
    return (
        array.dictionary_encode() if pa.types.is_string(array.type) or pa.types.is_large_string(array.type) else array
    )


def _open(path: Path) -> dict[str, Any] | None:
    """Return what an exported file says about its runs; None where there is none, or it is another program's."""
    if not path.exists():
        return None
    text = (parquet.read_schema(path).metadata or {}).get(KEY)
    content = {} if text is None else json.loads(text)
    return content if content.get("format") == FORMAT else None


def _read(path: Path, runs: set[str]) -> pd.DataFrame:
    stored = parquet.read_table(path)
    columns = {name: _series(name, stored[name].combine_chunks()) for name in stored.column_names}
    frame = pd.DataFrame(columns, copy=False)  # copies into one block would take longer than reading
    kept = frame["run"].isin(runs)
    return frame if kept.all() else frame[kept].reset_index(drop=True)


def _series(name: str, column: pa.Array) -> pd.Series:
    """Return a column with the values that `load.tidy` gives: missing ones are None, or NaN among numbers."""
    wanted = dtype(name)
    if isinstance(column, pa.DictionaryArray):
        texts = np.array([*column.dictionary.to_pylist(), None], dtype=object)
        return pd.Series(texts[column.indices.fill_null(len(texts) - 1).to_numpy()], dtype=object)
    if pa.types.is_list(column.type):
        return pd.Series(_lists(column), dtype=object)
    if wanted == "object":
        values = column.to_numpy(zero_copy_only=False).astype(object) if not column.null_count else column.to_pylist()
        return pd.Series(values, dtype=object)
    return pd.Series(column.to_numpy(zero_copy_only=False), dtype=wanted)


def _lists(column: pa.ListArray) -> np.ndarray:
    """Return one array a row, all of them views of one, and None where there is none."""
    offsets = column.offsets.to_numpy()
    values = column.values.to_numpy(zero_copy_only=False)
    found = np.empty(len(column), dtype=object)
    found[:] = [values[start:stop] for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
    found[column.is_null().to_numpy(zero_copy_only=False)] = None
    return found
