"""What the commands of this package have in common: which runs, chosen how, written where."""

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pandas as pd

from analysis._columnar import table
from analysis.load import tidy
from analysis.readers import read
from analysis.selection import Where, by_dataset, keep, select


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage; exit code 2."""

    def error(self, message: str) -> NoReturn:
        command = self.prog.removeprefix("python -m ")
        self.exit(2, f"{command}: {message}; see {self.prog} --help\n")


def parser(name: str, about: str, out: str) -> Parser:
    """Return a parser of the options that choose runs and the folder to write to."""
    # One block a column is meant (`_columnar`); pandas warns at every column put to more than a hundred of them.
    warnings.filterwarnings("ignore", category=pd.errors.PerformanceWarning, message="DataFrame is highly fragmented")
    made = Parser(prog=f"python -m analysis.{name}", description=about, allow_abbrev=False)
    made.add_argument("--results", type=Path, default=Path("results"), help="folder with runs/ in it")
    made.add_argument("--out", type=Path, default=Path(out), help="folder to write to")
    made.add_argument("--space", nargs="+", default=[], metavar="SPACE", help="default: all spaces there are runs of")
    made.add_argument("--methods", default="all", help="names joined by commas; default: all")
    made.add_argument(
        "--where", nargs="+", action="extend", default=[], metavar="FIELD=VALUE",
        help="keep runs with this value in spec.json; name a field twice to let both values stand together",
    )  # fmt: skip
    made.add_argument(
        "--others", nargs="+", type=Path, default=[], metavar="FOLDER",
        help="draw logs of nasbench-1shot1, SmoothDARTS, MS-DARTS or RobustDARTS beside the runs",
    )  # fmt: skip
    return made


def selected(options: argparse.Namespace) -> pd.DataFrame:
    """Return the rows of the chosen runs.

    Raises:
        ValueError: there are none, or they must not stand together.
    """
    return chosen(table(options.results), options)


def selected_by_dataset(options: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """Return the rows of the chosen runs by a suffix for file names: each dataset of a space of several apart.

    Where only one part is left, or `--where dataset=…` says which may stand together, it has no suffix.

    Raises:
        ValueError: there are none, they must not stand together, or others' runs would stand beside several datasets.
    """
    frame = table(options.results)
    fields = where(options.where)
    parts = by_dataset(keep(frame, options.space, _methods(options))) if len(frame) and "dataset" not in fields else {}
    if len(parts) < 2:
        return {"": chosen(frame, options)}
    if options.others:
        raise ValueError("expected --where dataset=… beside --others: the runs are of several datasets")
    return {suffix: select(part, where=fields) for suffix, part in parts.items()}


def _methods(options: argparse.Namespace) -> list[str]:
    return [] if options.methods == "all" else options.methods.split(",")


def chosen(frame: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    """Return the rows of a tidy table that the options choose.

    Raises:
        ValueError: there are none, or they must not stand together.
    """
    if frame.empty:
        raise ValueError(f"no runs with records under {options.results / 'runs'}; python -m bench.run makes some")
    own = select(frame, options.space, _methods(options), where(options.where))
    return pd.concat([own, _others(options.others)], ignore_index=True) if options.others else own


def _others(folders: Sequence[Path]) -> pd.DataFrame:
    """Return the rows of others' runs, labelled so; their protocols are theirs and are not compared with ours."""
    frame = select(tidy([run for folder in folders for run in read(folder)]))
    return frame.assign(label=frame["label"] + " (others)", run=frame["run"] + " (others)")


def where(written: Sequence[str]) -> Where:
    """Return the values by field of `field=value` words; a repeated field collects its values."""
    fields: dict[str, list[str]] = {}
    for word in written:
        field, equals, value = word.partition("=")
        if not (field and equals):
            raise ValueError(f"expected --where field=value, got {word!r}")
        fields.setdefault(field, []).append(value)
    return fields
