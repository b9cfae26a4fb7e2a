"""The figure of decoded cells: one small graph a method and distinct cell, with the number of seeds that found it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path

from analysis import _caption, _page
from analysis.cells import ABSENT, Graph, read, selected
from analysis.selection import space_order
from analysis.style import GREY, styles

COLUMNS = 4
MOST = 3
"""At most this number of distinct cells of a method is drawn; the caption counts the others."""
COLOURS = {"3×3": "#0072B2", "1×1": "#56B4E9", "pool": "#E69F00", "skip": "#009E73", ABSENT: "#BBBBBB"}
BOX: dict[str, Any] = {"boxstyle": "round,pad=0.25", "linewidth": 0.6}
NODE = 0.3
"""Half the space that an arrow leaves free around a node; nodes are one apart."""


def caption(frame: pd.DataFrame) -> str:
    """Return what stands below the figure.

    Raises:
        ValueError: no run has a decoded cell, or one cannot be read.
    """
    found = selected(frame)
    if found.empty:
        raise ValueError("no run has a decoded cell")
    for text in found["genotype"]:
        read(text)
    counts = found.groupby(["space", "label"]).size().rename("n").reset_index()
    more = ", ".join(f"{row['label']} on {row['space']}: {row['n'] - MOST}" for _, row in counts.iterrows()
                     if row["n"] > MOST)  # fmt: skip
    missing = sorted(set(frame["label"]) - set(found["label"]))
    return _caption.joined(
        "Cells selected at the end; above each the method, how many of its seeds selected it, and its test error where "
        "the table has it. From input to output, left to right; operations stand on edges on NAS-Bench-201 (dashed: "
        "none), else on nodes; unreachable nodes are left out.",
        f"At most {MOST} cells a method are drawn; others: {more}." if more else "",
        f"Without a cell: {', '.join(missing)}." if missing else "",
        _caption.protocol(frame),
    )


def draw(frame: pd.DataFrame, text: str) -> Figure:
    """Return the figure above a text."""
    found = selected(frame).groupby(["space", "label"], sort=False).head(MOST)
    order = list(styles(found["label"]))
    parts = {space: found[found["space"] == space] for space in space_order(found)}
    parts = {space: part.sort_values("label", key=lambda x: x.map(order.index), kind="stable")
             for space, part in parts.items()}  # fmt: skip
    rows = sum(-(-len(part) // COLUMNS) for part in parts.values())
    made = _page.page(rows, COLUMNS, list(COLOURS), text, row_in=1.0)
    for ax in made.axes.flat:
        ax.set_axis_off()
    first = 0
    for part in parts.values():
        for ax, (_, cell) in zip(made.axes[first:].flat, part.iterrows(), strict=False):
            ax.set_title(_title(cell), fontsize=6, pad=2)
            draw_graph(ax, read(cell["genotype"]))
        first += -(-len(part) // COLUMNS)
    return _page.finish(made, [Line2D([], [], color=colour, linewidth=3, label=name)
                               for name, colour in COLOURS.items()])  # fmt: skip


def _title(cell: pd.Series) -> str:
    error = f", test error {100 * cell['error_test']:.1f} %" if np.isfinite(cell["error_test"]) else ""
    return f"{cell['space']}: {cell['label']}\n{cell['count']} of {cell['seeds']} seeds{error}"


def draw_graph(ax: Axes, graph: Graph) -> None:
    """Draw nodes on a line and edges as arcs: neighbours straight, others above or below in turn by length."""
    heights = _heights([(i, j) for i, j, _ in graph.edges])
    for (i, j, name), height in zip(graph.edges, heights, strict=True):
        _edge(ax, (i, j), height, name)
    for place, name in enumerate(graph.nodes):
        face = COLOURS.get(name, "white")
        dark = name in {"3×3", "skip"}
        ax.text(place, 0, name or str(place), fontsize=5.5, ha="center", va="center", zorder=4,
                color="white" if dark else "black", bbox={**BOX, "facecolor": face, "edgecolor": GREY})  # fmt: skip
    top = max([0.5, *heights]) + 0.3
    bottom = min([-0.5, *heights]) - 0.3
    ax.set(xlim=(-0.5, len(graph.nodes) - 0.5), ylim=(bottom, top))


def _heights(edges: Sequence[tuple[int, int]]) -> list[float]:
    """Return the height of every edge's arc: zero for neighbours, else by length, starting at even nodes above."""
    return [0.0 if j - i == 1 else (1 if i % 2 == 0 else -1) * 0.55 * (j - i - 1) for i, j in edges]


def _edge(ax: Axes, ends: tuple[int, int], height: float, name: str) -> None:
    (i, j), colour = ends, COLOURS.get(name, GREY)
    shift = NODE if height == 0 else 0.12
    lift = 0.0 if height == 0 else np.sign(height) * 0.22
    middle = ((i + j) / 2, 2 * height - lift)
    path = Path([(i + shift, lift), middle, (j - shift, lift)], [Path.MOVETO, Path.CURVE3, Path.CURVE3])
    arrow = FancyArrowPatch(path=path, arrowstyle="-|>,head_length=2,head_width=1.2", color=colour, linewidth=0.9,
                            linestyle=(0, (2, 2)) if name == ABSENT else "-", zorder=2)  # fmt: skip
    ax.add_patch(arrow)
    if name and name != ABSENT:
        beside = 0.24 if height == 0 else height
        ax.text((i + j) / 2, beside, name, fontsize=5.5, ha="center", va="center", zorder=3,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.3})  # fmt: skip
