"""Named columns as JSON lines: one object a row, null or an absent name where there is no number."""

import json
import math
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

TEXTS = ("key", "cell")


def begins(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of JSON lines."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"


def write(path: Path, table: pa.Table) -> None:
    """Write every row of a table of texts and numbers; not a number becomes null."""
    with path.open("w", encoding="utf-8") as file:
        for batch in table.to_batches(max_chunksize=1024):
            for row in batch.to_pylist():
                plain = {name: None if value != value else value for name, value in row.items()}  # noqa: PLR0124 - NaN
                file.write(json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n")


def read(path: Path) -> pa.Table:
    """Return the named columns of a file; ValueError names the line that is not a row."""
    texts: dict[str, list[str | None]] = {}
    numbers: dict[str, array[float]] = {}
    rows = 0
    for number, row in _rows(path):
        for name, value in row.items():
            if name in TEXTS:
                _pad(texts.setdefault(name, []), rows, None)
                texts[name].append(_text(value, path, number, name))
            else:
                _pad(numbers.setdefault(name, array("d")), rows, math.nan)
                numbers[name].append(_number(value, path, number, name))
        rows += 1
    for column in texts.values():
        _pad(column, rows, None)
    for values in numbers.values():
        _pad(values, rows, math.nan)
    columns = {name: pa.array(column, pa.string()) for name, column in texts.items()}
    return pa.table(columns | {name: pa.array(np.asarray(v), from_pandas=True) for name, v in numbers.items()})


def _pad(column: Any, length: int, missing: Any) -> None:
    column.extend([missing] * (length - len(column)))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, object_pairs_hook=_once, parse_constant=_refuse)
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"{path}, line {number}: expected one JSON object, got {line[:60]!r}: {error}"
                ) from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: expected a JSON object of named columns, got {line[:60]!r}")
            yield number, row


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a name stands in it twice")
    return row


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON; write null where there is no number")


def _text(value: Any, path: Path, number: int, name: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise ValueError(f"{path}, line {number}: expected text for {name!r}, got {value!r:.60}")


def _number(value: Any, path: Path, number: int, name: str) -> float:
    if value is None:
        return math.nan
    whole = type(value) is int and abs(value) < 2**53
    if whole or (isinstance(value, float) and math.isfinite(value)):
        return float(value)
    raise ValueError(f"{path}, line {number}: expected a number for {name!r}, got {value!r:.60}")
