"""Files of this package, written whole or not at all, and removed."""

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet


def put(path: Path, text: str) -> Path:
    """Write a text file in place of an old one, make its folder where it is missing, and return its path."""
    return _replaced(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def put_table(path: Path, table: pa.Table) -> Path:
    """Write a parquet file in place of an old one, and return its path."""
    return _replaced(path, lambda partial: parquet.write_table(table, partial, compression="zstd"))


def remove(path: Path) -> None:
    """Remove a file."""
    path.unlink()


def _replaced(path: Path, write: Callable[[Path], object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    write(partial)
    partial.replace(path)
    return path
