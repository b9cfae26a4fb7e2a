"""Say what data are there and what is missing; fetch and convert: `python -m bench.prepare [NAME …]`.

Without names, lists datasets and tables, and what `--benchmark paper` still lacks on every space. With names, downloads
what has a direct address, checks it, and makes tables of results; what has none is named with its files, checksums and
the folder to put them. Exit code 0: all there; 1: something could not be had, the rest was; 2: the request was wrong.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pooch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from bench.command import WRONG, Parser
from bench.data import data_root
from bench.data.download import Bar, fetch, is_good, locked
from bench.data.obtain import obtain, place, state
from bench.data.sources import CATALOGUE, DOWNLOADS, Catalogue, File, Need, Part, TableSource
from bench.tables.arrow import mapped
from bench.tables.catalog import default_cache, known
from bench.tables.commands.imports import kept, make
from bench.tables.forms import sha256, space_of

THERE, LACKING, INTERRUPTED = 0, 1, 130

Say = Callable[[str], object]


def main(arguments: Sequence[str] | None = None, catalogue: Catalogue = CATALOGUE) -> int:
    """List what is there, or prepare what is named; a mistake is one sentence on stderr and exit code 2."""
    parser = Parser(prog="python -m bench.prepare", description="Datasets and benchmark tables.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"out of {', '.join(catalogue.by_name)}")
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.names if name not in catalogue.by_name]
    try:
        if unknown:
            raise ValueError(f"expected names out of {', '.join(catalogue.by_name)}, got {', '.join(unknown)}")
        if chosen.names:
            return _prepare(chosen, catalogue)
        report(catalogue, _line)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return WRONG
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: what is whole is kept, the same command goes on from it\n")
        return INTERRUPTED
    return THERE


def _line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _prepare(chosen: argparse.Namespace, catalogue: Catalogue) -> int:
    """Prepare one after the other; where one fails the others go on."""
    pooch.get_logger().setLevel(logging.WARNING)
    lacking = []
    with locked(data_root() / DOWNLOADS) as downloads, ExitStack() as stack:
        new_bar = _bars(stack)
        for name in dict.fromkeys(chosen.names):
            item = catalogue.by_name[name]
            try:
                if isinstance(item, Part):
                    obtain(item, data_root(), downloads, new_bar, _line)
                else:
                    _tables(item, _results(item, downloads, new_bar))
            except (ValueError, OSError) as error:
                lacking.append(name)
                sys.stderr.write(f"error: {error}\n")
    return LACKING if lacking else THERE


def _bars(stack: ExitStack) -> Callable[[str], Bar | None]:
    """Return what shows transfers: bars on a terminal, a line each elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return lambda name: _line(f"fetching {name}")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    progress = stack.enter_context(Progress(*columns, TimeRemainingColumn(), console=console))
    return lambda name: _TerminalBar(progress, name)


class _TerminalBar:
    """One transfer on the terminal."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._task = progress, progress.add_task(name, total=None)

    @property
    def total(self) -> int:
        return round(self._progress.tasks[self._task].total or 0)

    @total.setter
    def total(self, size: int) -> None:
        self._progress.update(self._task, total=size)

    def update(self, n: int) -> None:
        self._progress.advance(self._task, n)

    def reset(self) -> None:
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        self._progress.stop_task(self._task)


def _results(source: TableSource, downloads: Path, new_bar: Callable[[str], Any]) -> Path:
    """Return a form of a benchmark's results, fetched where it has an address and none is there.

    Raises:
        ValueError: they have to be put there by hand; the message says where from.
    """
    present = [file for file in source.files if (downloads / file.name).exists()]
    direct = [file for file in source.files if file.url is not None]
    if direct:
        return fetch(direct[0], downloads, new_bar)
    if not present:
        raise ValueError("\n".join(_by_hand(source, downloads)))
    path = downloads / present[0].name
    if path.is_file() and not is_good(path, present[0].checksum):
        raise ValueError(f"expected {present[0].checksum} for {path}, got another file: get it again")
    return path


def _by_hand(source: TableSource, downloads: Path) -> list[str]:
    first = f"{source.name} has no direct address: get one of these and put it into {downloads}:"
    return [first, *(f"  {file.name}, {_size(file)}, no checksum is published: {file.page}" for file in source.files)]


def _tables(source: TableSource, path: Path) -> None:
    """Make the tables that the results hold: of the benchmark they say they are of, else of all spaces they cover."""
    digest, said = sha256(path) if path.is_file() else None, space_of(path)
    for name in source.spaces if said is None else (said,):
        out = kept(name)
        if digest is not None and out.is_file() and mapped(out)[1]["source_sha256"] == digest:
            _line(f"{out} is there, of {path.name}")
            continue
        make(path, name, out)


def report(catalogue: Catalogue, say: Say) -> None:
    """Say what is there, what is missing and how to get it, and what the benchmark `paper` lacks."""
    root = data_root()
    say(f"data folder  {root} (NAS_STABILITY_DATA names another)")
    say(f"tables       {default_cache() / 'tables'}")
    whole = {}
    say("\ndatasets")
    for part in catalogue.parts:
        found = state(part, root)
        whole[part.name] = found.whole
        count = f"{len(found.good)} of {len(part.files)} files" if found.good else "missing"
        say(f"  {part.name:<17} {'present' if found.whole else count:<13}  {_parted(part, found.whole, root)}")
        for file in found.wrong:
            say(f"  {'':<17} {root / part.folder / file.name} is not the published file")
    say("\nofficial results, to make tables of")
    for source in catalogue.tables:
        present = [file.name for file in source.files if (root / DOWNLOADS / file.name).exists()]
        say(f"  {source.name:<17} {'present' if present else 'missing':<13}  {_sourced(source, present)}")
    say("\nwhat --benchmark paper lacks")
    for need in catalogue.needs:
        parts = [name for name in need.parts if not whole[name]]
        say(f"  {need.space:<6} {need.dataset:<10}  {_lacks(need, parts, catalogue, root)}")


def _parted(part: Part, whole: bool, root: Path) -> str:
    if whole:
        return f"{part.title}: {place(part, root)}"
    direct = (part.archive,) if part.archive is not None else part.files
    if all(file.url is not None for file in direct):
        return f"{part.title}; {', '.join(_size(file) for file in direct)}: python -m bench.prepare {part.name}"
    return f"{part.title}; by hand, into {root / part.folder}: python -m bench.prepare {part.name} says how"


def _sourced(source: TableSource, present: list[str]) -> str:
    of = f"{source.title}; tables of {', '.join(source.spaces)}"
    if present:
        return f"{of}; {present[0]}: python -m bench.prepare {source.name} makes them"
    if source.files[0].url is not None:
        return f"{of}; {_size(source.files[0])}: python -m bench.prepare {source.name}"
    return f"{of}; {_size(source.files[0])}, by hand: python -m bench.prepare {source.name} says how"


def _lacks(need: Need, parts: list[str], catalogue: Catalogue, root: Path) -> str:
    """Return what is missing for a search on a space and a dataset, and which table it would use."""
    sources = [s.name for s in catalogue.tables if need.space in s.spaces and need.dataset in s.datasets]
    try:
        table = known(need.space, need.dataset, root, default_cache())
        described = "none" if table is None else _described(table)
    except ValueError as error:
        table, described = None, str(error)
    lacking = [*parts, *([] if table is not None else [f"a table ({' or '.join(sources)})"])]
    return f"{', '.join(lacking) or 'nothing'}; table: {described}"


def _described(table: Path) -> str:
    if table.suffix != ".arrow":
        return f"{table}, read at the first run"
    batch, metadata = mapped(table)
    return f"{table}, {batch.num_rows} cells, {metadata['source']}"


def _size(file: File) -> str:
    if file.size_bytes is None:
        return "size not published"
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if file.size_bytes >= scale:
            return f"{file.size_bytes / scale:.3g} {unit}"
    return f"{file.size_bytes / 1e3:.3g} kB"


if __name__ == "__main__":
    sys.exit(main())
