"""`info`: what a table holds."""

import argparse
import sys

from bench.tables.arrow import budgets, load, mapped, slots
from bench.tables.commands import FOUND, Command
from bench.tables.commands.finding import named
from bench.tables.data import MEAN
from bench.tables.table import Reference, Table


def _info_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", metavar="TABLE", help="a file, or a space, whose table a run would find")
    parser.add_argument("--dataset", help="of the space's table; default: cifar10, else digits")


def _info(chosen: argparse.Namespace) -> int:
    path = named(chosen.table, chosen.dataset)
    data = load(path)
    sys.stdout.write(
        f"table    {path}\nspace    {data.space}\nsource   {data.source}\nsha256   {data.source_sha256 or 'unknown'}\n"
    )
    for note in data.provenance:
        sys.stdout.write(f"note     {note}\n")
    metadata = mapped(path)[1]
    for dataset, stored in budgets(metadata).items():
        for budget in stored:
            write_reference(Table.open(path, dataset, budget).reference())
    for slot, runs in slots(metadata).items():
        held = "means" if runs == (MEAN,) else f"runs {', '.join(runs)}"
        sys.stdout.write(f"{slot.name}: {held}\n")
    sys.stdout.write(f"content  {metadata['digest']}\n")
    return FOUND


def write_reference(reference: Reference) -> None:
    covered = "unknown" if reference.coverage is None else f"{reference.coverage:.2%}"
    sys.stdout.write(
        f"\n{reference.dataset}, {reference.budget} epochs: {reference.rows} cells, {covered} of the encodings\n"
        f"  best val     {reference.optimum_val:.6f}  {', '.join(reference.optimum_val_keys)}\n"
        f"  best test    {reference.optimum_test:.6f}  {', '.join(reference.optimum_test_keys)}\n"
        f"  random cell  {reference.random_cell_val:.6f} val, {reference.random_cell_test:.6f} test\n"
    )


INFO = Command("Say what a table holds, and check it against its digest.", _info_arguments, _info)
