"""`import` and `export`."""

import argparse
import sys
from pathlib import Path

from bench.tables.arrow import write
from bench.tables.catalog import default_cache
from bench.tables.commands import FOUND, Command
from bench.tables.flat import export
from bench.tables.forms import import_table, space_of


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="nasbench201.parquet, nasbench101_slice.parquet, or named columns")
    parser.add_argument("--space", help="s1, s2, s3, nb201, …; needed where the file does not say it")
    parser.add_argument("--out", type=Path, help="default: tables/<space>.arrow in the user's cache folder")
    parser.add_argument("--unit", choices=("fraction", "percent"), default="fraction", help="of named columns")


def _import(chosen: argparse.Namespace) -> int:
    name = chosen.space or space_of(chosen.file)
    if name is None:
        raise ValueError(f"{chosen.file} does not say which space it is of; name it with --space")
    import bench.spaces  # imports torch, which the other commands do not need

    space = bench.spaces.get(name)
    data = import_table(chosen.file, name, space.multiplicities(), space.size(), chosen.unit)
    out = chosen.out or default_cache() / "tables" / f"{name}.arrow"
    write(out, data)
    sys.stdout.write(f"{len(data.keys)} cells of {name} in {out}\n")
    return FOUND


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", type=Path)
    parser.add_argument("out", type=Path, help=".parquet, .csv or .jsonl")


def _export(chosen: argparse.Namespace) -> int:
    export(chosen.table, chosen.out)
    sys.stdout.write(f"{chosen.table} as named columns in {chosen.out}\n")
    return FOUND


IMPORT = Command("Read a benchmark file or folder into a compact table.", _import_arguments, _import)
EXPORT = Command("Write a table as named columns: parquet, CSV or JSON lines.", _export_arguments, _export)
