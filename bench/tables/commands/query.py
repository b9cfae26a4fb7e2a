"""`query`: one cell."""

import argparse
import sys
from pathlib import Path

from bench.tables.arrow import budgets, mapped
from bench.tables.commands import FOUND, MISS, Command
from bench.tables.table import Table, TableEntry


def _query_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", type=Path)
    parser.add_argument("key")
    parser.add_argument("--dataset", help="default: the only one of the table, else cifar10")
    parser.add_argument("--budget", type=int, help="training epochs; default: the largest")


def _query(chosen: argparse.Namespace) -> int:
    stored = list(budgets(mapped(chosen.table)[1]))
    dataset = chosen.dataset or (stored[0] if len(stored) == 1 else "cifar10")
    table = Table.open(chosen.table, dataset, chosen.budget)
    entry = table.query(chosen.key)
    if entry is None:
        sys.stdout.write(f"{chosen.table} has no cell {chosen.key!r} ({dataset}, {table.budget} epochs)\n")
        return MISS
    _write_entry(entry)
    return FOUND


def _write_entry(entry: TableEntry) -> None:
    for name, mean, runs in (("val", entry.val_mean, entry.val), ("test", entry.test_mean, entry.test)):
        sys.stdout.write(f"{name:<13} {mean:.6f}  stored: {' '.join(f'{run:.6f}' for run in runs)}\n")
    for name in ("n_runs", "budget", "params", "flops", "train_time_s"):
        value = getattr(entry, name)
        sys.stdout.write(f"{name:<13} {'unknown' if value is None else value}\n")


QUERY = Command("Look one cell up; exit code 1 if the table does not have it.", _query_arguments, _query)
