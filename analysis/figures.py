"""Draw figures from results: python -m analysis.figures [--results results] [--out figures] [--figure NAME ...].

Each figure has one column of panels a space and is written as PNG and as PDF; equal records give equal bytes in the
same environment. Of more than `CROWD` methods it is several numbered figures, of one method of every colour each. Files
of a figure that an earlier call wrote and that drawing it again did not are removed (`_written`). Exit code 2 with one
sentence when there is nothing to draw or the runs must not stand together.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis import _ablation, _cell_graphs, _columns, _command, _incumbents, _kinds, _page
from analysis._written import Written
from analysis.style import COLOURS, CROWD, context, styles

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drawing:
    """One figure of selected runs (`selection.select`).

    Attributes:
        caption: what stands below it; a ValueError says in one sentence why there is nothing to draw.
        draw: the figure above a text, which may be empty.
    """

    caption: Callable[[pd.DataFrame], str]
    draw: Callable[[pd.DataFrame, str], Figure]


FIGURES = {
    name: Drawing(partial(_columns.caption, kind), partial(_columns.draw, kind)) for name, kind in _kinds.KINDS.items()
} | {
    "ablation": Drawing(_ablation.caption, _ablation.draw),
    "cells": Drawing(_cell_graphs.caption, _cell_graphs.draw),
}


TABULAR = "incumbents"
"""The figure of table-only search, whose records are of another kind: all of it when there are any."""

ON_REQUEST = ("lambda_legacy",)
"""Drawn by name only."""
DEFAULT = tuple(name for name in FIGURES if name not in ON_REQUEST)

Parts = Mapping[str, pd.DataFrame]
"""Suffix of file names to the runs that may stand in one panel (`selection.select_by_dataset`)."""


FEW = len(COLOURS)
WHOLE = ("lambda_regret", "ablation")
"""Never divided: what these show is between methods."""


def pages(name: str, frame: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the runs of each figure that a figure of many methods is divided into, those with something to show.

    Raises:
        ValueError: none has.
    """
    labels = list(styles(frame["label"]))
    crowded = len(labels) > CROWD and name not in WHOLE
    parts = [labels[i : i + FEW] for i in range(0, len(labels), FEW)] if crowded else [labels]
    found, reasons = [], []
    for part in parts:
        shown = frame[frame["label"].isin(part)]
        try:
            FIGURES[name].caption(shown)
        except ValueError as error:
            reasons.append(error)
        else:
            found.append(shown)
    if not found:
        raise reasons[0]
    return found


def draw(name: str, frame: pd.DataFrame) -> Figure:
    """Return a figure of selected runs with its caption.

    Raises:
        ValueError: the runs hold nothing that this figure shows.
    """
    drawing = FIGURES[name]
    with context():
        return drawing.draw(frame, drawing.caption(frame))


def write(name: str, frame: pd.DataFrame, stem: Path) -> list[Path]:
    """Draw a figure of selected runs and return the files written, `stem`.png and .pdf or `stem`-1 and so on."""
    shown = pages(name, frame)
    stems = [stem] if len(shown) == 1 else [stem.with_name(f"{stem.name}-{i + 1}") for i in range(len(shown))]
    written = []
    for one, part in zip(stems, shown, strict=True):
        figure = draw(name, part)
        with context():
            written += _page.save(figure, one)
    return written


def write_incumbents(found: Sequence[_incumbents.Search], out: Path) -> list[Path]:
    """Draw the figure of selected table searches and return the files written."""
    with context():
        return _page.save(_incumbents.draw(found, _incumbents.caption(found)), out / TABULAR)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    options = _parser().parse_args(arguments)
    try:
        for path in _written(options):
            sys.stdout.write(f"{path}\n")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"analysis.figures: {error}\n")
        return 2
    return 0


def _possible(names: Sequence[str], parts: Parts) -> list[tuple[str, str]]:
    """Return the figures, each with the suffix of a part, for which the runs have something.

    The log says why others are left out.

    Raises:
        ValueError: of a figure asked for by name, no part has anything.
    """
    found, reasons = [], dict[str, str]()
    for suffix, part in parts.items():
        for name in names or DEFAULT:
            try:
                pages(name, part)
            except ValueError as error:
                reasons[name + suffix] = str(error)
            else:
                found.append((name, suffix))
    for name in names:
        if not any(name == other for other, _ in found):
            raise ValueError(reasons[name + next(iter(parts))])
    for stem, reason in reasons.items():
        log.warning("no figure %s: %s", stem, reason)
    return found


def _written(options: argparse.Namespace) -> Iterator[Path]:
    """Draw what is asked for, or all there is; raise a ValueError with one sentence when the request cannot be met."""
    asked = _command.names(options.figure)
    for name in asked:
        if name not in {*FIGURES, TABULAR}:
            raise ValueError(f"no figure {name!r}; there are {', '.join([*FIGURES, TABULAR])}")
    own, tables = [name for name in asked if name != TABULAR], TABULAR in asked
    found = _incumbents.searches(options.results) if tables or not asked else []
    written = Written(options.out)
    if own or not (tables or (found and not (options.results / "runs").is_dir())):
        parts = _command.selected_by_dataset(options)
        possible = _possible(own, parts)
        for name in {*(own or DEFAULT)} - {name for name, _ in possible}:
            written.note(f"figure {name}", [])  # what an earlier call drew of it is not of these runs
        for name, suffix in possible:
            yield from written.note(f"figure {name}", write(name, parts[suffix], options.out / f"{name}{suffix}"))
    if tables or found:
        yield from written.note(f"figure {TABULAR}", _written_incumbents(found, options, needed=tables))
    written.remove_stale()


def _written_incumbents(
    found: Sequence[_incumbents.Search], options: argparse.Namespace, *, needed: bool
) -> Iterator[Path]:
    try:
        spaces, methods = _command.names(options.space), _command.methods(options)
        chosen = _incumbents.select(found, spaces, methods, _command.where(options))
    except ValueError as error:
        if needed:
            raise
        log.warning("no figure %s: %s", TABULAR, error)
    else:
        yield from write_incumbents(chosen, options.out)


def _parser() -> argparse.ArgumentParser:
    parser = _command.parser("figures", "Draw figures from results, as PNG and PDF.", "figures")
    parser.add_argument(
        "--figure", nargs="+", default=[], metavar="NAME", help=f"of {', '.join([*FIGURES, TABULAR])}; default: all"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
