"""The flat layout of `data` as parquet, CSV or JSON lines: what users bring, and what `export` writes."""

import json
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float64

from bench.tables import jsonl
from bench.tables.arrow import METADATA, describe, load, loose, replace
from bench.tables.data import (
    COUNT_NAME,
    N_RUNS,
    RUN_NAME,
    SCALAR_NAME,
    TIME,
    Measurement,
    Slot,
    TableData,
    flat_numbers,
    slot_of,
)


def export(table_path: Path, out: Path) -> None:
    """Write a table in the flat layout, as .parquet, .csv or .jsonl; importing that again gives the same content."""
    from pyarrow import csv, parquet

    data = load(table_path)
    columns = {"key": pa.array(data.keys, pa.string()), "cell": pa.array(data.cells, pa.string())}
    columns |= {name: pa.array(values, from_pandas=True) for name, values in flat_numbers(data).items()}
    table = pa.table(columns).replace_schema_metadata({METADATA: json.dumps(describe(data), sort_keys=True)})
    if out.suffix == ".parquet":
        replace(out, lambda temporary: parquet.write_table(table, temporary, compression="zstd"))
    elif out.suffix == ".csv":
        replace(out, lambda temporary: csv.write_csv(table, temporary))
    elif out.suffix == ".jsonl":
        replace(out, lambda temporary: jsonl.write(temporary, table))
    else:
        raise ValueError(f"export writes .parquet, .csv or .jsonl, got {out.name!r}")


def type_of(name: str) -> pa.DataType | None:
    """Return the type of a column by its name, None where the flat layout has no such column."""
    if name in {"key", "cell"}:
        return pa.string()
    if name == "multiplicity" or COUNT_NAME.fullmatch(name):
        return pa.int64()
    return pa.float64() if RUN_NAME.fullmatch(name) or SCALAR_NAME.fullmatch(name) else None


def numbers(table: pa.Table, name: str) -> Float64[np.ndarray, " rows"]:
    """Return a column as float64, missing numbers as NaN."""
    if name not in table.column_names:
        raise ValueError(f"expected a column {name!r}, got {table.column_names}")
    return table[name].cast(pa.float64()).to_numpy().copy()


def from_columns(table: pa.Table, unit: Literal["fraction", "percent"]) -> TableData:
    """Read the flat layout; the space is empty where the file does not say it."""
    names = table.column_names
    unknown = [name for name in names if type_of(name) is None]
    if unknown or len(set(names)) < len(names):
        raise ValueError(f"not columns of the flat layout, or not each once: {unknown or names}")
    if table["key"].null_count:
        raise ValueError(f"{table['key'].null_count} rows have no key")
    keys = tuple(table["key"].cast(pa.string()).to_pylist())
    cells = table["cell"].cast(pa.string()).fill_null("").to_pylist() if "cell" in names else [""] * len(keys)
    return TableData(
        **({"space": ""} | loose_fields(table)),
        keys=keys,
        cells=tuple(cells),
        multiplicities=_multiplicities(table),
        measurements=_measurements(table, 100.0 if unit == "percent" else 1.0),
        scalars={name: numbers(table, name) for name in names if SCALAR_NAME.fullmatch(name)},
    )


def loose_fields(table: pa.Table) -> dict[str, Any]:
    """Return what the metadata of an exported file says, nothing where there is none."""
    text = (table.schema.metadata or {}).get(METADATA)
    return {} if text is None else loose(json.loads(text))


def _multiplicities(table: pa.Table) -> np.ndarray:
    if "multiplicity" not in table.column_names:
        return np.ones(len(table), dtype=np.int64)
    if table["multiplicity"].null_count:
        raise ValueError(f"{table['multiplicity'].null_count} rows have no multiplicity")
    return table["multiplicity"].cast(pa.int64()).to_numpy()


def _measurements(table: pa.Table, scale: float) -> dict[Slot, Measurement]:
    found: dict[Slot, list[re.Match[str]]] = {}
    for match in filter(None, map(RUN_NAME.fullmatch, table.column_names)):
        found.setdefault(slot_of(match), []).append(match)
    _check_counts(table, {slot.name for slot in found})
    return {slot: _measurement(table, slot, matches, scale) for slot, matches in found.items()}


def _check_counts(table: pa.Table, measured: set[str]) -> None:
    for match in filter(None, map(COUNT_NAME.fullmatch, table.column_names)):
        if match["slot"] not in measured:
            raise ValueError(f"column {match[0]!r} counts the runs of a mean that the file does not have")


def _measurement(table: pa.Table, slot: Slot, matches: list[re.Match[str]], scale: float) -> Measurement:
    values = np.stack([numbers(table, match[0]) for match in matches], axis=1) / (1.0 if slot.what == TIME else scale)
    counts = f"{slot.name}/{N_RUNS}"
    n_runs = table[counts].cast(pa.int64()).fill_null(0).to_numpy() if counts in table.column_names else None
    return Measurement(values, tuple(match["run"] for match in matches), n_runs)
