"""The same grid under each launcher of this machine: `python -m bench.launch.walltime --folder DIR -- OPTIONS`.

OPTIONS are those of bench.run, without --launcher, --jobs and --results. Every launcher gets the command as a process
of its own and an empty folder under DIR, one after another; start-up counts. Prints wall seconds, CPU seconds of all
processes (– under Ray), and whether the records are the same bytes as those of one job.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path

from rich.table import Table as Rows

from bench.command import WRONG, Parser, positive
from bench.progress import new_console


@dataclass(frozen=True)
class Took:
    """What a command took.

    Attributes:
        cpu_s: user and system time of its processes that are its children.
    """

    label: str
    wall_s: float
    cpu_s: float
    records: dict[str, bytes]


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(arguments)
    if options.folder.exists() and any(options.folder.iterdir()):
        sys.stderr.write(f"error: expected an empty or absent folder at --folder, got {options.folder}\n")
        return WRONG
    launchers = [["--jobs", "1"], ["--jobs", str(options.jobs)]]
    if util.find_spec("ray") is not None:
        launchers.append(["--launcher", "ray"])
    found = []
    for number, launcher in enumerate(launchers):
        took = _timed(launcher, options.folder / str(number), options.rest)
        if took is None:
            return 1
        found.append(took)
    new_console().print(_rows(found))
    return 0


def _timed(launcher: list[str], folder: Path, rest: Sequence[str]) -> Took | None:
    """Run a command, its output passed on to stderr; None where it failed."""
    command = [sys.executable, "-m", "bench.run", *rest, *launcher, "--results", str(folder)]
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    wall_s, after = time.perf_counter() - start, os.times()
    if done.returncode:
        sys.stderr.write(f"error: expected exit code 0 of {' '.join(command)}, got {done.returncode}\n")
        return None
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    records = {path.parent.name: path.read_bytes() for path in folder.glob("runs/*/records.jsonl")}
    return Took(" ".join(launcher), wall_s, cpu_s, records)


def _rows(found: Sequence[Took]) -> Rows:
    first = found[0]
    rows = Rows(title=f"{len(first.records)} runs, {os.cpu_count()} cores", title_justify="left")
    for name in ("launcher", "wall s", "of one job's", "CPU s", "records"):
        rows.add_column(name, justify="left" if name in {"launcher", "records"} else "right")
    for took in found:
        same = "the same bytes" if took.records == first.records else "DIFFERENT"
        cpu = "–" if "ray" in took.label else f"{took.cpu_s:.1f}"  # a cluster's processes are nobody's children
        rows.add_row(took.label, f"{took.wall_s:.1f}", f"{took.wall_s / first.wall_s:.2f}", cpu, same)
    return rows


def _parser() -> Parser:
    parser = Parser(prog="python -m bench.launch.walltime", description="The same grid under each launcher.")
    parser.add_argument("--folder", type=Path, required=True, help="absent or empty")
    parser.add_argument("--jobs", type=positive, default=2, help="of the second command")
    parser.add_argument("rest", nargs="+", help="options of bench.run, after --")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
