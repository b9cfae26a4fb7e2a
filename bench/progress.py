"""What a search shows while it runs: a live line on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from bench.record import EpochRecord, Timing
from bench.search import Observer

PLAIN_EVERY_S = 10.0
FILE_WIDTH = 140


def new_console() -> Console:
    """Return a console as wide as the terminal, or wide enough for the tables where the output is a file."""
    return Console(markup=False) if sys.stdout.isatty() else Console(width=FILE_WIDTH, markup=False)


@contextmanager
def observer(console: Console, label: str, epochs: int) -> Iterator[Observer]:
    """Yield what a search reports every record to."""
    if not console.is_terminal:
        yield _Plain(console, label, epochs)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(escape(label), total=epochs, state="")

        def observe(records: list[EpochRecord], timing: Timing) -> None:
            progress.update(task, completed=records[0].epoch, state=describe(records, timing, epochs))

        yield observe


class _Plain:
    """Prints the first epochs, then one line every few seconds, and the last."""

    def __init__(self, console: Console, label: str, epochs: int) -> None:
        self.console, self.label, self.epochs = console, label, epochs
        self.start, self.first, self.last = time.monotonic(), -1, 0.0

    def __call__(self, records: list[EpochRecord], timing: Timing) -> None:
        epoch, now = records[0].epoch, time.monotonic()
        self.first = epoch if self.first < 0 else self.first
        ends = epoch <= 1 or epoch == self.epochs
        if not ends and now - self.last < PLAIN_EVERY_S:
            return
        self.last = now
        done = epoch - self.first
        left = "" if done < 1 else f"  {(now - self.start) / done * (self.epochs - epoch):.0f} s left"
        self.console.print(
            f"{self.label}  {describe(records, timing, self.epochs)}{left}", highlight=False, soft_wrap=True
        )


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
