"""`import` and `export`."""

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from bench.tables.arrow import write
from bench.tables.catalog import default_cache
from bench.tables.commands import FOUND, Command
from bench.tables.commands.finding import named
from bench.tables.flat import export
from bench.tables.forms import PARTS, Unit, import_table, space_of

PROGRESS_EVERY_S = 5.0


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a file or folder in one of the forms of docs/tables.md")
    parser.add_argument("--space", help="s1, s2, s3, nb201, …; where the file does not say it, or for a part of it")
    parser.add_argument("--out", type=Path, help="default: tables/<space>.arrow in the user's cache folder")
    parser.add_argument("--unit", choices=("fraction", "percent"), default="fraction", help="of named columns")


def _import(chosen: argparse.Namespace) -> int:
    name = chosen.space or space_of(chosen.file)
    if name is None:
        raise ValueError(f"{chosen.file} does not say which space it is of; name it with --space")
    make(chosen.file, name, chosen.out or kept(name), chosen.unit)
    return FOUND


def kept(name: str) -> Path:
    """Return where the table of a space, or of a whole benchmark, is kept."""
    return default_cache() / "tables" / f"{name}.arrow"


def make(path: Path, name: str, out: Path, unit: Unit = "fraction") -> None:
    """Read results as the table of a space, or of a whole benchmark, and say what is in it."""
    data = import_table(path, name, *_encodings(name), unit, _Progress())
    write(out, data)
    sys.stdout.write(f"{len(data.keys)} cells of {name} in {out}\n")
    for note in data.provenance:
        sys.stdout.write(f"note: {note}\n")


def _encodings(name: str) -> tuple[Mapping[str, int], int | None]:
    """Return the keys of a space with their multiplicities, and the number of encodings; nothing for a whole one."""
    if name in PARTS:
        return {}, None
    import bench.spaces  # imports torch, which the other commands do not need

    space = bench.spaces.get(name)
    return space.multiplicities(), space.size()


class _Progress:
    """Writes every few seconds how much is read and how long the rest will take."""

    def __init__(self) -> None:
        self.start = self.last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.last >= PROGRESS_EVERY_S and done:
            left = (now - self.start) * (total - done) / done
            sys.stdout.write(f"{done / total:.0%} read  {left:.0f} s left\n")
            sys.stdout.flush()
            self.last = now


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", help="a file, or a space, whose table a run would find")
    parser.add_argument("out", type=Path, help=".parquet, .csv or .jsonl")
    parser.add_argument("--dataset", help="of the space's table; default: cifar10, else digits")


def _export(chosen: argparse.Namespace) -> int:
    table = named(chosen.table, chosen.dataset)
    export(table, chosen.out)
    sys.stdout.write(f"{table} as named columns in {chosen.out}\n")
    return FOUND


IMPORT = Command("Read a benchmark file or folder into a compact table.", _import_arguments, _import)
EXPORT = Command("Write a table as named columns: parquet, CSV or JSON lines.", _export_arguments, _export)
