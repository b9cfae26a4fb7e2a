"""A page: panels in rows and columns, the legend and the caption below them, nothing overlapping.

Heights of legend and caption are measured before the figure gets its size. No pyplot, so no global state.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from analysis.style import DOUBLE_COLUMN_IN, DPI, FONT_PT, SINGLE_COLUMN_IN

ROW_IN = 1.75
EDGE_IN = 0.06
LINE_IN = FONT_PT * 1.3 / 72
HANDLE_IN = FONT_PT * 4.4 / 72
"""A legend entry's line, its distance to the text and to the next column."""


@dataclass(frozen=True)
class Page:
    """A figure and its axes, "rows columns"; legend and caption are still to be placed in the space kept for them."""

    figure: Figure
    axes: np.ndarray
    caption: str
    legend_columns: int
    below_in: float


def page(rows: int, columns: int, legend: Sequence[str], caption: str, row_in: float = ROW_IN) -> Page:
    """Return an empty page of paper width: one column for one panel a row, else two; no room for an empty caption."""
    width = SINGLE_COLUMN_IN if columns == 1 else DOUBLE_COLUMN_IN
    renderer = RendererAgg(100, 100, DPI)
    lines = wrap(caption, width - 2 * EDGE_IN, renderer) if caption else []
    widest = max((width_in(label, renderer) for label in legend), default=0.0) + HANDLE_IN
    legend_columns = max(1, min(len(legend), int((width - 2 * EDGE_IN) / widest)))
    legend_in = -(-len(legend) // legend_columns) * LINE_IN + (LINE_IN if caption else 0)
    below = legend_in + len(lines) * LINE_IN + 2 * EDGE_IN
    height = rows * row_in + below
    figure = Figure(figsize=(width, height), dpi=DPI)
    figure.set_layout_engine("constrained", rect=(0, below / height, 1, 1 - below / height), w_pad=0.03, h_pad=0.03)
    axes = figure.subplots(rows, columns, squeeze=False)
    return Page(figure, axes, "\n".join(lines), legend_columns, below)


def finish(made: Page, handles: Sequence[Artist]) -> Figure:
    """Place the legend and the caption."""
    width, height = made.figure.get_size_inches()
    top = (made.below_in - EDGE_IN) / height
    legend = made.figure.legend(
        handles=list(handles), loc="upper center", bbox_to_anchor=(0.5, top), ncols=made.legend_columns,
        frameon=False, borderaxespad=0, borderpad=0, labelspacing=0.3, handlelength=2.6, handletextpad=0.5,
        columnspacing=1.2,
    )  # fmt: skip
    legend.set_in_layout(False)
    if made.caption:
        lines = made.caption.count("\n") + 1
        made.figure.text(EDGE_IN / width, (EDGE_IN + lines * LINE_IN) / height, made.caption, va="top", linespacing=1.2)
    return made.figure


def width_in(text: str, renderer: RendererAgg) -> float:
    """Return the width of a text in inches."""
    width, _, _ = renderer.get_text_width_height_descent(text, FontProperties(size=FONT_PT), ismath=False)
    return float(width) / DPI


def wrap(text: str, width: float, renderer: RendererAgg) -> list[str]:
    """Return the lines of a text that is at most `width` inches wide."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        # Hinting makes text up to two percent wider in one file than in the other.
        if lines[-1] and width_in(longer, renderer) > 0.98 * width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def svg(figure: Figure) -> str:
    """Return a figure as the text of an SVG file without date or version; letters are outlines."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.png and `stem`.pdf without dates or versions, and return their paths."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, pdf = stem.with_name(stem.name + ".png"), stem.with_name(stem.name + ".pdf")
    figure.savefig(png, metadata={"Software": None})
    figure.savefig(pdf, metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return [png, pdf]
