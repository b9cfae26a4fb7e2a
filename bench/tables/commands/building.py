"""`build`: train every cell of a space."""

import argparse
import dataclasses
import hashlib
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from bench.command import Parser, positive
from bench.tables.arrow import mapped, write
from bench.tables.catalog import default_cache
from bench.tables.commands import FOUND, Command
from bench.tables.commands.info import write_reference
from bench.tables.table import Table

if TYPE_CHECKING:
    from torch import device

    from bench.cores import Share
    from bench.tables.plan import Plan

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


def _build_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--space", required=True, help="toy, s1, s2, s3, nb201")
    parser.add_argument("--dataset", default="digits", help="digits (default), cifar10, cifar100, imagenet16")
    parser.add_argument("--out", type=Path, help="default: tables/<space>-<dataset>.arrow in the user's cache folder")
    for name, meaning in PROTOCOL.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=positive, help=f"{meaning}; default: docs/embedded.md")
    parser.add_argument("--parts", type=Path, help="folder of finished trainings, to continue; default: in the cache")
    parser.add_argument("--share", type=_share, help="i/n: train only the i-th of n shares")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    parser.add_argument("--threads", type=positive, help="CPU threads of a process; default: 1 where maps are small")
    parser.add_argument("--jobs", type=positive, help="processes; default: one a core where maps are small")
    parser.add_argument("--fresh", action="store_true", help="build again what is there")


def _share(text: str) -> tuple[int, int]:
    index, _, shares = text.partition("/")
    if not (index.isdecimal() and shares.isdecimal() and 1 <= int(index) <= int(shares)):
        raise argparse.ArgumentTypeError(f"expected a share like 1/2, got {text!r}")
    return int(index), int(shares)


def _build(chosen: argparse.Namespace) -> int:
    from bench import choice, process
    from bench.tables.build import build, stacks_left, table
    from bench.tables.parts import Parts
    from bench.tables.plan import identity

    if chosen.share and (chosen.jobs or 1) > 1:
        raise ValueError("expected --share or --jobs, got both: each share is a process of its own")
    plan = _plan(chosen)
    name, wanted = f"{plan.space.name}-{plan.dataset.name}", identity(plan)
    out = chosen.out or default_cache() / "tables" / f"{name}.arrow"
    _make_folder(out.parent)  # before anything is trained
    if not chosen.fresh and _holds(out, plan.space.name, wanted):
        sys.stdout.write(f"{out} is there, of the same protocol: nothing to do; --fresh builds it again\n")
        return FOUND
    digest = hashlib.sha256(wanted.encode()).hexdigest()[:12]
    parts = Parts(chosen.parts or default_cache() / "parts" / f"{name}-{digest}", wanted)
    if chosen.fresh and not chosen.share:
        parts.remove()
    device = choice.choose_device(chosen.device)
    left, replicas = stacks_left(plan, parts), plan.protocol.replicas
    if not chosen.share:
        sys.stdout.write(f"{name}, {wanted}\ntrainings are kept in {parts.folder}\n")
        sys.stdout.write(f"{left} stacks of {replicas} trainings are left; a stack is kept when all of it is trained\n")
        sys.stdout.flush()
    here = _shared(chosen, plan, left, device)
    if here.jobs > 1:
        _share_out(chosen, here, parts.folder)
    process.begin(here.threads)
    whole = build(plan, parts, chosen.share or (1, 1), device, _Progress())
    if not whole or chosen.share:
        sys.stdout.write("this share is trained; without --share, once all are, the table is written\n")
        return FOUND
    write(out, table(plan, parts, _provenance()))
    sys.stdout.write(
        f"{len(plan.space.multiplicities())} cells of {name}, {plan.protocol.runs} trainings each, in {out}\n"
    )
    write_reference(Table.open(out, plan.dataset.name).reference())
    return FOUND


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"expected a folder for the table, got {folder}, where a file is in the way") from error


def train_share(arguments: Sequence[str]) -> None:
    """Train a share for the `build` that has asked for it by its own arguments, --parts and --share among them."""
    from bench import choice, process
    from bench.tables.build import build
    from bench.tables.parts import Parts
    from bench.tables.plan import identity

    parser = Parser(prog="python -m bench.tables.share")
    _build_arguments(parser)
    chosen = parser.parse_args(arguments)
    process.begin(chosen.threads)
    plan = _plan(chosen)
    told = _Progress("share {} of {}: ".format(*chosen.share))
    build(plan, Parts(chosen.parts, identity(plan)), chosen.share, choice.choose_device(chosen.device), told)


def _plan(chosen: argparse.Namespace) -> "Plan":
    from bench import data, spaces
    from bench.data.augment import published
    from bench.tables.plan import Plan, protocol, set_aside

    given = {name: getattr(chosen, name) for name in PROTOCOL if getattr(chosen, name) is not None}
    space, dataset = spaces.get(chosen.space), set_aside(data.load(chosen.dataset))
    training = dataclasses.replace(protocol(space.name), **given)
    if dataset.name != "digits":
        training = dataclasses.replace(training, augmentation=published(dataset.name))
    return Plan(space, dataset, training)


def _shared(chosen: argparse.Namespace, plan: "Plan", left: int, device: "device") -> "Share":
    """Return how many processes train, of so many threads: no more than there are stacks to train."""
    from bench import cores

    here = cores.share(plan.work, device, 1 if chosen.share else chosen.jobs, chosen.threads)
    return here if here.jobs == 1 else here.of(left)


def _share_out(chosen: argparse.Namespace, here: "Share", folder: Path) -> None:
    """Train shares in processes of their own, which end with this one; what they leave undone is done by the caller.

    On a CPU two processes of one thread train twice as many cells as one process of two threads.
    """
    processes: list[subprocess.Popen[bytes]] = []
    names = ("space", "dataset", "device", *PROTOCOL)
    same = [f"--{name.replace('_', '-')}={getattr(chosen, name)}" for name in names if getattr(chosen, name)]
    command = [sys.executable, "-m", "bench.tables.share", *same, f"--parts={folder}", f"--threads={here.threads}"]
    shares = [f"--share={i + 1}/{here.jobs}" for i in range(here.jobs)]
    with ExitStack() as running:
        for share in shares:
            # A group of its own: Ctrl-C reaches this process only, whose end is that of their stdin.
            started = subprocess.Popen([*command, share], stdin=subprocess.PIPE, process_group=0)
            running.enter_context(started)
            running.callback(started.kill)
            processes.append(started)
        failed = [process.args for process in processes if process.wait() != 0]
    if failed:
        raise ValueError(f"{len(failed)} of {here.jobs} processes failed; what they said stands above")


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

    def __init__(self, label: str = "") -> None:
        self.label = label
        self.start = self.last = time.monotonic()
        self.before: int | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self.before is None:  # what was there already says nothing of the speed
            self.before, self.start = done, now
        if now - self.last >= PROGRESS_EVERY_S or done == total:
            pace = (now - self.start) / (done - self.before) if done > self.before else 0.0
            left = f"  {pace * (total - done):.0f} s left" if pace else ""
            sys.stdout.write(f"{self.label}{done:,} of {total:,} trainings done{left}\n")
            sys.stdout.flush()
            self.last = now


BUILD = Command("Train every cell of a space on a small dataset.", _build_arguments, _build)
