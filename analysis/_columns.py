"""Figures with one column of panels a space."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import _page, _panels
from analysis.selection import space_order
from analysis.style import styles


@dataclass(frozen=True)
class Kind:
    """What one figure is made of.

    Attributes:
        vertical: names of the vertical axes, one a row of panels.
        value: column without which a method is not drawn; it is named below the figure instead.
        prepare: adds columns to the tidy table.
        marked: tells of a method's rows whether the legend shows a marker or a line; default: one point is a marker.
    """

    vertical: tuple[str, ...]
    value: str
    panels: Callable[[list[Axes], pd.DataFrame, _panels.Styles], None]
    caption: Callable[[pd.DataFrame], str]
    references: tuple[str, ...] = ()
    prepare: Callable[[pd.DataFrame], pd.DataFrame] = pd.DataFrame.copy
    marked: Callable[[pd.DataFrame], bool] | None = None


def caption(kind: Kind, frame: pd.DataFrame) -> str:
    """Return what stands below a figure of selected runs (`selection.select`).

    Raises:
        ValueError: no run has a value.
    """
    prepared = kind.prepare(frame)
    if prepared[kind.value].isna().all():
        raise ValueError(f"no run has a value of {kind.value}")
    return kind.caption(prepared)


def draw(kind: Kind, frame: pd.DataFrame, text: str) -> Figure:
    """Return a figure of selected runs above a text."""
    frame = kind.prepare(frame)
    shown = frame[frame.groupby("label")[kind.value].transform(lambda values: values.notna().any())]
    present = set(shown["label"])
    look = {label: style for label, style in styles(frame["label"]).items() if label in present}
    handles = _handles(shown, kind, look)
    spaces = space_order(frame)
    made = _page.page(len(kind.vertical), len(spaces), [str(handle.get_label()) for handle in handles], text)
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
        marked = kind.marked(rows) if kind.marked else _panels.is_one_point(rows, kind.value)
        handles.append(_panels.handle(name, look[label], marked))
    return handles + [Line2D([], [], label=name, **_panels.REFERENCES[name]) for name in kind.references]
