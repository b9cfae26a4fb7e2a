"""Import, build, inspect, query and export benchmark tables: `python -m bench.tables --help`."""

import argparse
import dataclasses
import hashlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.command import WRONG, Parser, positive
from bench.tables.arrow import budgets, load, mapped, slots, write
from bench.tables.catalog import default_cache
from bench.tables.data import MEAN
from bench.tables.flat import export
from bench.tables.forms import import_table, space_of
from bench.tables.table import Reference, Table, TableEntry

FOUND, MISS = 0, 1
PROGRESS_EVERY_S = 5.0
PROTOCOL = {
    "runs": "trainings of every cell",
    "epochs": "of every training",
    "train_images": "images trained on",
    "eval_images": "images of each accuracy",
    "channels": "of the first stage",
    "cells": "cells a stage",
    "batch_size": "images in a batch",
    "replicas": "cells trained together",
}
"""What of the protocol can be given."""


class Command(NamedTuple):
    """A subcommand: its help, its arguments, and what it does; returns the exit code."""

    summary: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; a mistake is one sentence on stderr and exit code 2."""
    chosen = _parser().parse_args(arguments)
    try:
        return COMMANDS[chosen.command].run(chosen)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return WRONG


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m bench.tables", description="Benchmark tables.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        command.arguments(commands.add_parser(name, help=command.summary, description=command.summary))
    return parser


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


def _info_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", type=Path)


def _info(chosen: argparse.Namespace) -> int:
    data = load(chosen.table)
    sys.stdout.write(f"space    {data.space}\nsource   {data.source}\nsha256   {data.source_sha256 or 'unknown'}\n")
    for note in data.provenance:
        sys.stdout.write(f"note     {note}\n")
    metadata = mapped(chosen.table)[1]
    for dataset, stored in budgets(metadata).items():
        for budget in stored:
            _write_reference(Table.open(chosen.table, dataset, budget).reference())
    for slot, runs in slots(metadata).items():
        held = "means" if runs == (MEAN,) else f"runs {', '.join(runs)}"
        sys.stdout.write(f"{slot.name}: {held}\n")
    sys.stdout.write(f"content  {metadata['digest']}\n")
    return FOUND


def _build_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--space", required=True, help="toy, s1, s2, s3, nb201")
    parser.add_argument("--dataset", default="digits", help="digits (default) or cifar10")
    parser.add_argument("--out", type=Path, help="default: tables/<space>-<dataset>.arrow in the user's cache folder")
    for name, meaning in PROTOCOL.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=positive, help=f"{meaning}; default: docs/embedded.md")
    parser.add_argument("--parts", type=Path, help="folder of finished trainings, to continue; default: in the cache")
    parser.add_argument("--share", type=_share, default=(1, 1), help="i/n: train only the i-th of n shares")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    parser.add_argument("--threads", type=positive, help="CPU threads")
    parser.add_argument("--jobs", type=positive, default=1, help="processes, of one thread each")
    parser.add_argument("--fresh", action="store_true", help="build again what is there")


def _share(text: str) -> tuple[int, int]:
    index, _, shares = text.partition("/")
    if not (index.isdecimal() and shares.isdecimal() and 1 <= int(index) <= int(shares)):
        raise argparse.ArgumentTypeError(f"expected a share like 1/2, got {text!r}")
    return int(index), int(shares)


def _build(chosen: argparse.Namespace) -> int:
    import torch

    from bench import choice, data, spaces
    from bench.data.augment import Augmentation
    from bench.tables.build import Plan, Protocol, build, identity, set_aside, table
    from bench.tables.parts import Parts

    given = {name: getattr(chosen, name) for name in PROTOCOL if getattr(chosen, name) is not None}
    dataset, protocol = set_aside(data.load(chosen.dataset)), dataclasses.replace(Protocol(), **given)
    if dataset.name != "digits":
        protocol = dataclasses.replace(protocol, augmentation=Augmentation())
    plan = Plan(spaces.get(chosen.space), dataset, protocol)
    name, wanted = f"{plan.space.name}-{plan.dataset.name}", identity(plan)
    out = chosen.out or default_cache() / "tables" / f"{name}.arrow"
    if not chosen.fresh and _holds(out, plan.space.name, wanted):
        sys.stdout.write(f"{out} is there, of the same protocol: nothing to do; --fresh builds it again\n")
        return FOUND
    digest = hashlib.sha256(wanted.encode()).hexdigest()[:12]
    parts = Parts(chosen.parts or default_cache() / "parts" / f"{name}-{digest}", wanted)
    if chosen.fresh and chosen.share == (1, 1):
        parts.remove()
    device = choice.choose_device(chosen.device)
    if chosen.share == (1, 1):
        sys.stdout.write(f"{name}, {wanted}\ntrainings are kept in {parts.folder}\n")
    if chosen.jobs > 1:
        _share_out(chosen, parts.folder)
    torch.set_num_threads(chosen.threads or torch.get_num_threads())
    whole = build(plan, parts, chosen.share, device, _Progress())
    if not whole or chosen.share != (1, 1):
        sys.stdout.write("this share is trained; without --share, once all are, the table is written\n")
        return FOUND
    write(out, table(plan, parts, _provenance()))
    sys.stdout.write(
        f"{len(plan.space.multiplicities())} cells of {name}, {plan.protocol.runs} trainings each, in {out}\n"
    )
    _write_reference(Table.open(out, plan.dataset.name).reference())
    return FOUND


def _share_out(chosen: argparse.Namespace, folder: Path) -> None:
    """Train shares in processes of one thread each; what one of them leaves undone is done by the caller.

    On a CPU two such processes train twice as many cells as one process of two threads.
    """
    names = ("space", "dataset", *PROTOCOL)
    same = [f"--{name.replace('_', '-')}={getattr(chosen, name)}" for name in names if getattr(chosen, name)]
    command = [sys.executable, "-m", "bench.tables", "build", *same, f"--parts={folder}"]
    shares = [[f"--share={i + 1}/{chosen.jobs}", "--threads=1", "--jobs=1"] for i in range(chosen.jobs)]
    device = [] if chosen.device is None else [f"--device={chosen.device}"]
    running = [subprocess.Popen([*command, *device, *share]) for share in shares]
    failed = [process.args for process in running if process.wait() != 0]
    if failed:
        raise ValueError(f"{len(failed)} of {chosen.jobs} processes failed; what they said stands above")


def _provenance() -> tuple[str, ...]:
    import torch

    from bench.place import revision

    versions = f"torch {torch.__version__}, python {platform.python_version()}, {platform.machine()}"
    return (f"command: python -m bench.tables {' '.join(sys.argv[1:])}", f"commit {revision()}; {versions}")


def _holds(path: Path, space: str, wanted: str) -> bool:
    """Return whether a table is there and was built in this way."""
    if not path.is_file():
        return False
    metadata = mapped(path)[1]
    return metadata["space"] == space and wanted in metadata["provenance"]


class _Progress:
    """Writes a line with the time left every few seconds."""

    def __init__(self) -> None:
        self.start = self.last = time.monotonic()
        self.before: int | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self.before is None:  # what was there already says nothing of the speed
            self.before, self.start = done, now
        if now - self.last >= PROGRESS_EVERY_S or done == total:
            pace = (now - self.start) / (done - self.before) if done > self.before else 0.0
            left = f"  {pace * (total - done):.0f} s left" if pace else ""
            sys.stdout.write(f"{done:,} of {total:,} trainings done{left}\n")
            sys.stdout.flush()
            self.last = now


def _write_reference(reference: Reference) -> None:
    covered = "unknown" if reference.coverage is None else f"{reference.coverage:.2%}"
    sys.stdout.write(
        f"\n{reference.dataset}, {reference.budget} epochs: {reference.rows} cells, {covered} of the encodings\n"
        f"  best val     {reference.optimum_val:.6f}  {', '.join(reference.optimum_val_keys)}\n"
        f"  best test    {reference.optimum_test:.6f}  {', '.join(reference.optimum_test_keys)}\n"
        f"  random cell  {reference.random_cell_val:.6f} val, {reference.random_cell_test:.6f} test\n"
    )


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


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", type=Path)
    parser.add_argument("out", type=Path, help=".parquet or .csv")


def _export(chosen: argparse.Namespace) -> int:
    export(chosen.table, chosen.out)
    sys.stdout.write(f"{chosen.table} as named columns in {chosen.out}\n")
    return FOUND


COMMANDS = {
    "import": Command("Read a benchmark file into a compact table.", _import_arguments, _import),
    "build": Command("Train every cell of a space on a small dataset.", _build_arguments, _build),
    "info": Command("Say what a table holds, and check it against its digest.", _info_arguments, _info),
    "query": Command("Look one cell up; exit code 1 if the table does not have it.", _query_arguments, _query),
    "export": Command("Write a table as named columns, parquet or CSV.", _export_arguments, _export),
}

if __name__ == "__main__":
    sys.exit(main())
