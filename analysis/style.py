"""How every figure looks: colours and dashes by method, sizes for paper columns.

Colours: M. Okabe and K. Ito (2008), Color Universal Design, https://jfly.uni-koeln.de/color/, without the yellow, which
is too pale on paper. Dashes and markers tell the methods apart without colour.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import matplotlib as mpl

METHODS = (
    "darts", "darts_2nd", "random_ws", "pc_darts", "gdas", "sdarts_rs", "sdarts_adv", "ms_darts", "rdarts_l2",
    "rdarts_dp", "darts_es", "entrannas", "dropnas", "single_darts",
)  # fmt: skip
"""The methods whose style never changes; a new method is appended."""

COLOURS = ("#0072B2", "#D55E00", "#000000", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (4.0, 1.5),
    (1.0, 1.2),
    (5.0, 1.2, 1.0, 1.2),
    (5.0, 1.2, 1.0, 1.2, 1.0, 1.2),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

SINGLE_COLUMN_IN = 3.5
DOUBLE_COLUMN_IN = 7.2
DPI = 300
FONT_PT = 7.0
TITLE_PT = 8.0
MEAN_PT = 1.3
SEED_PT = 0.45
GREY = "#666666"


@dataclass(frozen=True)
class Style:
    """How one method is drawn; `dashes` in points on and off, empty for a solid line."""

    colour: str
    dashes: tuple[float, ...]
    marker: str

    @property
    def line(self) -> str | tuple[float, tuple[float, ...]]:
        return (0, self.dashes) if self.dashes else "-"


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """Return the style of every label, known methods first; the others follow in alphabetical order."""
    present = set(labels)
    others = sorted(present - set(METHODS))
    ranks = {label: rank for rank, label in enumerate((*METHODS, *others)) if label in present}
    return {label: _style(rank) for label, rank in ranks.items()}


def _style(rank: int) -> Style:
    around, colour = divmod(rank, len(COLOURS))
    return Style(COLOURS[colour], DASHES[around % len(DASHES)], MARKERS[colour])


def context() -> AbstractContextManager[None]:
    """Return a context in which matplotlib draws as the project does, whatever the user's own settings."""
    reset = {name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith(("backend", "date."))}
    return mpl.rc_context(reset | SETTINGS)  # type: ignore[arg-type]


SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": FONT_PT,
    "axes.titlesize": TITLE_PT,
    "axes.labelsize": FONT_PT,
    "xtick.labelsize": FONT_PT,
    "ytick.labelsize": FONT_PT,
    "legend.fontsize": FONT_PT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "pdf.fonttype": 42,
    "savefig.dpi": "figure",
}
