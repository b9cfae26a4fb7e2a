"""Write tables from results: python -m analysis.tables [accuracy stability ablation …] [--results results].

Every table is written as Markdown, LaTeX (booktabs) and CSV, one a space. A cell is the mean ± standard deviation over
seeds. The best of a column is bold only where the bootstrap interval of its mean over seeds lies beyond that of every
other method. `ablation` stands for every setting of which some method has several values. Beside `accuracy`, a space
whose runs have accuracies on several datasets gets them side by side, as `datasets`; where its runs were searched on
several, every other table is one a dataset. Files of a table that an earlier call wrote and that writing it again did
not are removed (`_written`). Exit code 2 with one sentence when there is nothing to state.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis import _command, _comparison, _datasets, typeset
from analysis._ablation import studies
from analysis._contents import KINDS, kind_of
from analysis._sheets import sheet, spaces
from analysis._written import Written
from analysis.selection import space_order
from analysis.typeset import FORMATS, Sheet

COMPARISON = "comparison"
"""Beside the tables of `_sheets`: estimates with intervals, and tests between methods."""
DEFAULT = ("summary", "accuracy", "stability", COMPARISON)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    options = _parser().parse_args(arguments)
    try:
        for path in _write(options):
            sys.stdout.write(f"{path}\n")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"analysis.tables: {error}\n")
        return 2
    return 0


def _write(options: argparse.Namespace) -> list[Path]:
    names, formats = _command.names(options.table) or list(DEFAULT), _command.names(options.format)
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"no format {name!r}; there are {', '.join(FORMATS)}")
    for name in names:
        if name not in {"ablation", COMPARISON}:
            kind_of(name)
    parts = _command.selected_by_dataset(options)
    made = {f"{stem}{suffix}": one for suffix, part in parts.items() for stem, one in sheets(names, part).items()}
    if "accuracy" in names:
        made |= _datasets.sheets(pd.concat(list(parts.values()), ignore_index=True))
    written = Written(options.out)
    paths = [
        path
        for stem, one in made.items()
        for path in written.note(_kind(stem), [typeset.save(one, options.out / stem, name) for name in formats])
    ]
    written.remove_stale()
    return paths


def _kind(stem: str) -> str:
    """Return which table a file is of; `datasets` stands beside `accuracy` and goes with it."""
    name = stem.partition("-")[0]
    return f"table {'accuracy' if name == 'datasets' else name}"


def sheets(names: Sequence[str], frame: pd.DataFrame) -> dict[str, Sheet]:
    """Return the tables of selected runs by file name: one a table and space, of `ablation` one a setting.

    Raises:
        ValueError: an ablation without runs.
    """
    made: dict[str, Sheet] = {}
    for name in names:
        if name == "ablation":
            made |= {f"{one.method}.{one.setting}-{one.space}": sheet(f"{one.method}.{one.setting}", frame, one.space)
                     for one in studies(frame)}  # fmt: skip
        elif name == COMPARISON:
            made |= {f"{name}-{space}": _comparison.sheet(frame, space) for space in space_order(frame)}
        else:
            made |= {f"{name}-{space}": sheet(name, frame, space) for space in spaces(name, frame)}
    if not made:
        raise ValueError("no method has runs with several values of a setting; python -m bench.run --set makes them")
    return made


def _parser() -> argparse.ArgumentParser:
    parser = _command.parser("tables", "Write tables from results.", "tables")
    names = ", ".join([*KINDS, COMPARISON, "ablation", "METHOD.SETTING"])
    parser.add_argument("table", nargs="*", metavar="TABLE", help=f"of {names}; default: {' '.join(DEFAULT)}")
    parser.add_argument(
        "--format", nargs="+", default=list(FORMATS), metavar="FORMAT", help=f"of {', '.join(FORMATS)}; default: all"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
