"""What the commands of this package have in common: which runs, chosen how, written where."""

import argparse
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pandas as pd

from analysis._columnar import table
from analysis.load import tidy
from analysis.readers import read
from analysis.selection import Where, select, select_by_dataset

_SEVERAL = re.compile(r",(?![^\[(]*[\])])")
"""A comma that is in no brackets."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage; exit code 2."""

    def error(self, message: str) -> NoReturn:
        command = self.prog.removeprefix("python -m ")
        self.exit(2, f"{command}: {message}; see {self.prog} --help\n")


def folder(text: str) -> Path:
    """Return a path that is a folder or can become one: said before anything is read."""
    path = Path(text)
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not there.is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder, got {text}, but {there} is a file")
    return path


def parser(name: str, about: str, out: str) -> Parser:
    """Return a parser of the options that choose runs and the folder to write to."""
    # One block a column is meant (`_columnar`); pandas warns at every column put to more than a hundred of them.
    warnings.filterwarnings("ignore", category=pd.errors.PerformanceWarning, message="DataFrame is highly fragmented")
    made = Parser(prog=f"python -m analysis.{name}", description=about, allow_abbrev=False)
    made.add_argument("--results", type=Path, default=Path("results"), help="folder with runs/ in it")
    made.add_argument("--out", type=folder, default=Path(out), help="folder to write to")
    made.add_argument(
        "--space", nargs="+", default=[], metavar="SPACE", help="s1,nb201 or s1 nb201; default: all there are runs of"
    )
    made.add_argument("--dataset", metavar="NAME", help="keep runs of this dataset; default: all datasets")
    made.add_argument("--methods", default="all", help="names joined by commas; default: all")
    made.add_argument(
        "--where", nargs="+", action="extend", default=[], metavar="FIELD=VALUE",
        help="keep runs with this value in spec.json; epochs=50,100 lets both values stand together",
    )  # fmt: skip
    made.add_argument(
        "--others", nargs="+", type=Path, default=[], metavar="FOLDER",
        help="draw logs of nasbench-1shot1, SmoothDARTS, MS-DARTS or RobustDARTS beside the runs",
    )  # fmt: skip
    return made


def selected(options: argparse.Namespace) -> pd.DataFrame:
    """Return the rows of the chosen runs, which are of one dataset a space.

    Raises:
        ValueError: there are none, or they must not stand together.
    """
    frame = _some(table(options.results), options)
    return _beside_others(select(frame, names(options.space), methods(options), where(options)), options)


def selected_by_dataset(options: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """Return the rows of the chosen runs by a suffix for file names: each dataset of a space of several apart.

    Raises:
        ValueError: as `chosen_by_dataset`.
    """
    return chosen_by_dataset(table(options.results), options)


def chosen_by_dataset(frame: pd.DataFrame, options: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """Return the rows of a tidy table that the options choose, as `selected_by_dataset`.

    Raises:
        ValueError: there are none, they must not stand together, or others' runs would stand beside several datasets.
    """
    parts = select_by_dataset(_some(frame, options), names(options.space), methods(options), where(options))
    if options.others and len(parts) > 1:
        raise ValueError("expected --dataset NAME beside --others, because the runs are of several datasets")
    return {suffix: _beside_others(part, options) for suffix, part in parts.items()}


def names(words: Sequence[str]) -> list[str]:
    """Return the names that stand in words, each once; blanks and commas part them.

    Raises:
        ValueError: the words hold none.
    """
    found = list(dict.fromkeys(name for word in words for part in _SEVERAL.split(word) if (name := part.strip())))
    if words and not found:
        raise ValueError(f"expected names joined by commas or blanks, got {' '.join(words)!r}")
    return found


def methods(options: argparse.Namespace) -> list[str]:
    """Return the methods named; none stand for all."""
    found = names([options.methods])
    return [] if found == ["all"] else found


def _some(frame: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    if frame.empty:
        raise ValueError(f"no runs with records under {options.results / 'runs'}; python -m bench.run makes some")
    return frame


def _beside_others(own: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    return pd.concat([own, _others(options.others)], ignore_index=True) if options.others else own


def _others(folders: Sequence[Path]) -> pd.DataFrame:
    """Return the rows of others' runs, labelled so; their protocols are theirs and are not compared with ours."""
    frame = select(tidy([run for folder in folders for run in read(folder)]))
    return frame.assign(label=frame["label"] + " (others)", run=frame["run"] + " (others)")


def where(options: argparse.Namespace) -> Where:
    """Return the values by field of `field=value` words; `field=a,b` and a repeated field collect values.

    Raises:
        ValueError: a word is none, or the dataset is chosen twice.
    """
    fields: dict[str, list[str]] = {}
    for word in options.where:
        field, equals, value = word.partition("=")
        if not (field and equals):
            raise ValueError(f"expected --where field=value, got {word!r}")
        fields.setdefault(field, []).extend(_SEVERAL.split(value))
    if options.dataset is None:
        return fields
    if "dataset" in fields:
        raise ValueError("expected --dataset or --where dataset=…, got both")
    return fields | {"dataset": [options.dataset]}
