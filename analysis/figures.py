"""Draw figures from results: python -m analysis.figures [--results results] [--out figures] [--figure NAME ...].

Each figure has one column of panels a space and is written as PNG and as PDF; equal records give equal bytes in the
same environment. Exit code 2 with one sentence when there is nothing to draw or the runs must not stand together.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import _caption, _command, _page, _panels
from analysis.selection import space_order
from analysis.series import selection_changed, with_distances
from analysis.style import MEAN_PT, context, styles


@dataclass(frozen=True)
class Kind:
    """What one figure is made of.

    Attributes:
        vertical: names of the vertical axes, one a row of panels.
        value: column without which a method is not drawn; it is named below the figure instead.
        prepare: adds columns to the tidy table.
    """

    vertical: tuple[str, ...]
    value: str
    panels: Callable[[list[Axes], pd.DataFrame, _panels.Styles], None]
    caption: Callable[[pd.DataFrame], str]
    references: tuple[str, ...] = ()
    prepare: Callable[[pd.DataFrame], pd.DataFrame] = pd.DataFrame.copy


def eigenvalue_caption(frame: pd.DataFrame) -> str:
    missing = _caption.without(
        frame, "lambda_dominant", lambda rows: _caption.first_given(rows, "no_curvature", "not measured")
    )
    return _caption.joined(
        _caption.lambda_definition(frame),
        _caption.protocol(frame),
        _caption.lines(frame, _caption.BAND),
        f"Without λ: {missing}." if missing else "",
    )


def regret_caption(frame: pd.DataFrame) -> str:
    missing = _caption.without(
        frame, "error_test", lambda rows: _caption.first_given(rows, "no_genotype", "no cell in the table")
    )
    return _caption.joined(
        "Top: best mean test accuracy in the table minus that of the discretised cell; bottom: its test error.",
        "Crosses: the cell of at least one seed is not in the table." if frame["miss"].any() else "",
        "Markers right of the last epoch: what was selected at the end." if _any_selected(frame) else "",
        _caption.protocol(frame),
        _caption.lines(frame, _caption.BAND),
        f"Without a tabulated cell: {missing}." if missing else "",
    )


def _any_selected(frame: pd.DataFrame) -> bool:
    return any(selection_changed(rows, "error_test") for _, rows in frame.groupby(["space", "label"]))


def distance_caption(frame: pd.DataFrame) -> str:
    missing = _caption.without(frame, "distance", _why_no_distance)
    still = _caption.without(frame[frame["distance"].notna()], "distance_relative", lambda _: "did not move")
    return _caption.joined(
        "Mean training loss of an epoch against the Euclidean distance of the architecture logits at its end, α(t), to "
        "those at the end of the search, α(T); bottom: relative to the distance before the first step. Markers: "
        "epoch 1.",
        _caption.protocol(frame),
        _caption.lines(frame, "thick lines: mean of distance and loss by epoch"),
        "" if frame["finished"].all() else "Only finished runs are drawn.",
        f"Not drawn: {missing}." if missing else "",
        f"Only in the upper row: {still}." if still else "",
    )


def _why_no_distance(rows: pd.DataFrame) -> str:
    if rows["logits"].isna().all():
        return "no architecture logits"
    return "logits not finite" if rows["finished"].any() else "not finished"


FIGURES = {
    "eigenvalues": Kind(("λ (signed)",), "lambda_dominant", _panels.eigenvalues, eigenvalue_caption),
    "regret": Kind(
        ("test regret", "test error"), "error_test", _panels.regret, regret_caption, tuple(_panels.REFERENCES)
    ),
    "alpha_distance": Kind(
        2 * ("training loss (nats)",), "distance", _panels.alpha_distance, distance_caption, prepare=with_distances
    ),
}


def draw(name: str, frame: pd.DataFrame) -> Figure:
    """Return a figure of selected runs (`selection.select`)."""
    kind = FIGURES[name]
    frame = kind.prepare(frame)
    shown = frame[frame.groupby("label")[kind.value].transform(lambda values: values.notna().any())]
    look = styles(shown["label"])
    handles = _handles(shown, kind, look)
    spaces = space_order(frame)
    with context():
        made = _page.page(
            len(kind.vertical), len(spaces), [str(handle.get_label()) for handle in handles], kind.caption(frame)
        )
        for space, axes in zip(spaces, made.axes.T, strict=True):
            axes[0].set_title(space)
            part = shown[shown["space"] == space]
            if part[kind.value].notna().any():
                kind.panels(list(axes), part, look)
            else:
                _panels.empty(list(axes), kind.vertical)
        return _page.finish(made, handles)


def _handles(shown: pd.DataFrame, kind: Kind, look: _panels.Styles) -> list[Line2D]:
    """Return the legend's entries: methods, with their misses in figures of table values, then reference lines."""
    handles = []
    for label, rows in _panels.by_label(shown, look):
        misses = int(rows["miss"].sum()) if kind.value == "error_test" else 0
        name = f"{label} ({misses} miss{'es' if misses > 1 else ''})" if misses else label
        style = look[label]
        point = {"marker": style.marker, "markersize": 3.5, "linestyle": "none"}
        line = point if _panels.is_one_point(rows, kind.value) else {"linestyle": style.line, "linewidth": MEAN_PT}
        handles.append(Line2D([], [], color=style.colour, label=name, **line))
    return handles + [Line2D([], [], label=name, **_panels.REFERENCES[name]) for name in kind.references]


def write(name: str, frame: pd.DataFrame, out: Path) -> list[Path]:
    """Draw a figure of selected runs and return the files written."""
    figure = draw(name, frame)
    with context():
        return _page.save(figure, out / name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    options = _parser().parse_args(arguments)
    names = options.figure or list(FIGURES)
    try:
        frame = _selected(options, names)
    except ValueError as error:
        sys.stderr.write(f"analysis.figures: {error}\n")
        return 2
    for name in names:
        for path in write(name, frame, options.out):
            sys.stdout.write(f"{path}\n")
    return 0


def _selected(options: argparse.Namespace, names: Sequence[str]) -> pd.DataFrame:
    """Return the rows to draw; raise a ValueError with one sentence when the request cannot be met."""
    for name in names:
        if name not in FIGURES:
            raise ValueError(f"no figure {name!r}; there are {', '.join(FIGURES)}")
    return _command.selected(options)


def _parser() -> argparse.ArgumentParser:
    parser = _command.parser("figures", "Draw figures from results, as PNG and PDF.", "figures")
    parser.add_argument(
        "--figure", nargs="+", default=[], metavar="NAME", help=f"of {', '.join(FIGURES)}; default: all"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
