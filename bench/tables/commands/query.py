"""`query`: one cell."""

import argparse
import sys
from pathlib import Path

from bench.tables.arrow import budgets, mapped
from bench.tables.commands import FOUND, MISS, Command
from bench.tables.commands.finding import DATASETS, named, of_space
from bench.tables.table import Table, TableEntry


def _query_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="TABLE KEY", help="a table, its file or its space, and a key")
    parser.add_argument("--space", help="use the table that a run of this space would find")
    parser.add_argument("--hash", dest="key", help="the key, instead of its place at the end")
    parser.add_argument(
        "--cell",
        nargs="+",
        help="a cell instead of its key: matrix and operations as in 010/001/000 conv3x3, or the string of nb201",
    )
    parser.add_argument("--dataset", help="default: the only one of the table, else cifar10")
    parser.add_argument("--budget", type=int, help="training epochs; default: the largest")
    parser.add_argument("--epoch", type=int, help="values of this epoch of the training; default: its end")


def _query(chosen: argparse.Namespace) -> int:
    path, key = _asked(chosen)
    stored = list(budgets(mapped(path)[1]))
    dataset = chosen.dataset or (stored[0] if len(stored) == 1 else DATASETS[0])
    table = Table.open(path, dataset, chosen.budget, chosen.epoch)
    if key is None:
        from bench.spaces.spelling import key as spelt  # imports torch

        key = spelt(table.space, chosen.cell)
    entry = table.query(key)
    if entry is None:
        sys.stdout.write(f"{path} has no cell {key!r} ({dataset}, {table.budget} epochs)\n")
        return MISS
    _write_entry(path, table, entry)
    return FOUND


def _asked(chosen: argparse.Namespace) -> tuple[Path, str | None]:
    """Return which table is asked, and for which key; None: the key is that of a cell."""
    words = list(chosen.words)
    if (chosen.key is not None) + (chosen.cell is not None) + (len(words) == 1 + (chosen.space is None)) != 1:
        raise ValueError("expected a key, --hash or --cell, one of them, and before it a table or --space")
    key = chosen.key if chosen.key is not None or chosen.cell is not None else words.pop()
    if len(words) != (chosen.space is None):
        raise ValueError(f"expected one table, or --space to find it, got {' '.join(words) or 'neither'}")
    return (named(words[0], chosen.dataset) if words else of_space(chosen.space, chosen.dataset)), key


def _write_entry(path: Path, table: Table, entry: TableEntry) -> None:
    when = "the end" if entry.epoch is None else f"epoch {entry.epoch}"
    lines = {
        "table": str(path),
        "space": table.space,
        "key": entry.key,
        "cell": table.cell(entry.key),
        "dataset": f"{table.dataset}, {when} of {entry.budget} epochs",
    }
    runs = table.runs(entry.key)
    for split, mean in (("val", entry.val_mean), ("test", entry.test_mean)):
        lines[split] = f"{mean:.6f}  {_single(runs.get(split), entry.n_runs)}"
    for name in ("n_runs", "budget", "params", "flops", "train_time_s"):
        value = getattr(entry, name)
        lines[name] = "unknown" if value is None else str(value)
    for name, value in lines.items():
        if value:
            sys.stdout.write(f"{name:<13} {value}\n")


def _single(runs: dict[str, float | None] | None, n_runs: int) -> str:
    """Return the runs behind a mean by their labels, those that do not exist too."""
    if runs is None:
        return f"mean of {n_runs} runs, which the table does not have"
    return "runs  " + "  ".join(
        f"{label}: {'none' if value is None else f'{value:.6f}'}" for label, value in runs.items()
    )


QUERY = Command("Look one cell up; exit code 1 if the table does not have it.", _query_arguments, _query)
