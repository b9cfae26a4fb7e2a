"""What a search shows while it runs: a live line on a terminal, plain lines elsewhere."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from bench.launch.unit import Moment, Watch
from bench.record import EpochRecord, Timing

PLAIN_EVERY_S = 10.0
FILE_WIDTH = 140


def new_console() -> Console:
    """Return a console as wide as the terminal, or wide enough for the tables where the output is a file."""
    return Console(markup=False) if sys.stdout.isatty() else Console(width=FILE_WIDTH, markup=False)


@contextmanager
def view(console: Console, units: int) -> Iterator[Watch]:
    """Yield what every recorded instant of every unit is told to; all of them are shown in one place."""
    if not console.is_terminal:
        yield _Plain(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        yield _Live(progress, units)


class _Live:
    """A bar for every unit under way, and one for the command where it has several units."""

    def __init__(self, progress: Progress, units: int) -> None:
        self.progress, self.units = progress, units
        self.ended: set[str] = set()
        self.whole = progress.add_task("units", total=units, state="", visible=units > 1)
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, moment: Moment) -> None:
        if moment.label not in self.tasks:
            self.tasks[moment.label] = self.progress.add_task(escape(moment.label), total=moment.epochs, state="")
        task = self.tasks[moment.label]
        self.progress.update(task, completed=moment.epoch, state=moment.text)
        if moment.last and self.units > 1:
            self.ended.add(moment.label)
            self.progress.update(task, visible=False)
            self.progress.update(self.whole, completed=len(self.ended), state=f"{len(self.ended)}/{self.units}")


class _Plain:
    """Prints the first epochs of a unit, then one line of it every few seconds, and the last."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.units: dict[str, _Shown] = {}

    def __call__(self, moment: Moment) -> None:
        now = time.monotonic()
        unit = self.units.setdefault(moment.label, _Shown(now, moment.epoch))
        ends = moment.epoch <= 1 or moment.epoch == moment.epochs
        if not ends and now - unit.last < PLAIN_EVERY_S:
            return
        unit.last = now
        done = moment.epoch - unit.first
        left_s = (now - unit.start) / max(done, 1) * (moment.epochs - moment.epoch)
        left = "" if done < 1 else f"  {left_s:.0f} s left"
        self.console.print(f"{moment.label}  {moment.text}{left}", highlight=False, soft_wrap=True)


@dataclass
class _Shown:
    """When a unit was first and last shown, and at which epoch it began."""

    start: float
    first: int
    last: float = -math.inf


def describe(records: list[EpochRecord], timing: Timing, epochs: int) -> str:
    """Return one line: epoch, losses, λ, table accuracy and speed; means over the stack's seeds."""
    parts = [f"epoch {records[0].epoch}/{epochs}" + (" final" if records[0].stage == "final" else "")]
    curvatures = [record.curvature["lambda_dominant"] if record.curvature else None for record in records]
    tests = [record.table["test_mean"] if record.table else None for record in records]
    for name, values, form in (
        ("train", [record.train_loss for record in records], ".3f"),
        ("val", [record.val_loss for record in records], ".3f"),
        ("λ", curvatures, ".3g"),
        ("test", tests, ".4f"),
    ):
        known = [value for value in values if value is not None]
        if known:
            parts.append(f"{name} {sum(known) / len(known):{form}}")
    misses = sum(bool(record.miss) for record in records)
    if misses:
        parts.append(f"{misses} misses")
    if timing.images_per_s:
        parts.append(f"{timing.images_per_s:.0f} images/s")
    return "  ".join(parts)
