"""`sample` and `measure`: made-up files in official layouts, and what it costs to read a file and to ask its table."""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.command import positive
from bench.tables import cells101
from bench.tables.arrow import budgets, mapped
from bench.tables.commands import FOUND, Command
from bench.tables.forms import file_form, space_of
from bench.tables.keys import Keys
from bench.tables.table import Table

ASKED = 2_000
"""Cells of a table that are asked for."""
OPENED = 20
COLUMNS = ("form", "bytes", "rows", "CPU s", "peak MB", "table MB", "open ms", "key µs", "cell µs")

WITHOUT_READING = "import sys, bench.tables.__main__\nif len(sys.argv) > 1: import bench.spaces"
"""What an import loads before it reads anything; a space needs the supernets' module."""


LAUNCHER = """
import resource, subprocess, sys
code = subprocess.run([sys.executable, *sys.argv[1:]], stdout=subprocess.DEVNULL).returncode
spent = resource.getrusage(resource.RUSAGE_CHILDREN)
print(spent.ru_utime + spent.ru_stime, spent.ru_maxrss * 1024)
sys.exit(code)
"""
"""Runs Python in a process of its own: a process counts the memory of the one it was started from as its own."""


class Cost(NamedTuple):
    """Of a process: seconds of user and system, and the most memory it had."""

    cpu_s: float
    peak_bytes: int


def _sample_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("form", choices=("nasbench_only108", "nasbench_full"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--cells", type=positive, help="default: as many as the published file has")


def _sample(chosen: argparse.Namespace) -> int:
    from bench.tables import nasbench101, sample101

    cells = chosen.cells or nasbench101.CELLS
    sample101.write_sample(chosen.out, sample101.unhashed_cells(cells), sample101.FILES[chosen.form])
    sys.stdout.write(f"{cells} made-up cells in the layout of {chosen.form} in {chosen.out}\n")
    return FOUND


def _measure_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", help="files or folders in one of the forms")
    parser.add_argument("--space", help="of the table, where the file does not say it")


def _measure(chosen: argparse.Namespace) -> int:
    _write_row(COLUMNS)
    _write_row("---" for _ in COLUMNS)
    for source in chosen.files:
        _write_row(_row(source, chosen.space))
    return FOUND


def _row(source: Path, space: str | None) -> list[str]:
    given = [] if space is None else [f"--space={space}"]
    if not source.exists():
        raise FileNotFoundError(f"there is no file at {source}")
    form = file_form(source)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "table.arrow"
        spent = _spent(["-m", "bench.tables", "import", str(source), f"--out={out}", *given])
        imports = _spent(["-c", WITHOUT_READING, *([] if space is None and space_of(source) == "nb101" else ["space"])])
        batch, metadata = mapped(out)
        dataset = min(budgets(metadata))
        table, keys = Table.open(out, dataset), Keys(batch)
        asked = [keys[row] for row in range(0, len(batch), max(1, len(batch) // ASKED))]
        spelt = _spelt(table, asked)
        return [
            "named columns" if form is None else form.name,
            f"{_size(source):,}",
            f"{len(batch):,}",
            f"{spent.cpu_s:.1f}",
            f"{(spent.peak_bytes - imports.peak_bytes) / 1e6:.0f}",
            f"{out.stat().st_size / 1e6:.1f}",
            f"{1e3 * _median_s(lambda _: Table.open(out, dataset), range(OPENED)):.2f}",
            f"{1e6 * _median_s(table.query, asked):.1f}",
            f"{1e6 * _median_s(spelt, range(len(asked))):.1f}",
        ]


def _spent(arguments: Sequence[str]) -> Cost:
    """Run Python and return what it cost; what it says on stderr is passed on."""
    done = subprocess.run([sys.executable, "-c", LAUNCHER, *arguments], stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise ValueError(f"python {' '.join(arguments[:3])} failed; what it said stands above")
    cpu_s, peak_bytes = done.stdout.split()
    return Cost(float(cpu_s), int(peak_bytes))


def _spelt(table: Table, keys: Sequence[str]) -> Callable[[int], object]:
    """Return what looks one of the keys up by its cell.

    Cells of a made-up file are not those of their keys, so the key found is computed and the stored one asked for.
    """
    from bench.spaces import spelling

    if table.space == "nb201":
        return lambda place: table.query(spelling.key(table.space, [keys[place]]))
    cells = [cells101.spelt(table.cell(key)) for key in keys]
    return lambda place: (spelling.key(table.space, cells[place]), table.query(keys[place]))


def _median_s(call: Callable[..., object], arguments: Iterable[object]) -> float:
    """Return the median seconds of a call."""
    seconds = []
    for argument in arguments:
        start = time.perf_counter()
        call(argument)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _size(source: Path) -> int:
    files = source.rglob("*") if source.is_dir() else [source]
    return sum(path.stat().st_size for path in files if path.is_file())


def _write_row(cells: Iterable[str]) -> None:
    sys.stdout.write(f"| {' | '.join(cells)} |\n")
    sys.stdout.flush()


SAMPLE = Command("Write a made-up file in an official layout, at full size.", _sample_arguments, _sample)
MEASURE = Command("Read files in processes of their own and say what that costs.", _measure_arguments, _measure)
