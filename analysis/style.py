"""How every figure looks: colours and dashes by method, sizes for paper columns.

Colours: M. Okabe and K. Ito (2008), Color Universal Design, https://jfly.uni-koeln.de/color/, without the yellow, which
is too pale on paper. Dashes and markers tell the methods apart without colour.
"""

import itertools
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import matplotlib as mpl

METHODS = (
    "darts", "ms_darts", "random_ws", "pc_darts", "gdas", "sdarts_rs", "sdarts_adv", "darts_2nd", "rdarts_l2",
    "rdarts_dp", "darts_es", "entrannas", "dropnas", "single_darts", "beta_darts", "drnas", "darts_minus", "fair_darts",
    "gaea_erm", "sgas", "lambda_darts", "oles", "idarts", "gaea_bilevel", "sgas_2", "entrannas_dst", "darts_ada",
    "ms_null", "sdarts_rs_matched", "darts_pt", "darts_pt_fixed", "zero_cost_pt", "pdarts", "darts_plus", "da2s",
    "opp_darts", "dso_nas", "dsnas", "snas", "pi_nas", "shapley_nas", "bnas_policy", "da_nas_policy", "enas", "spos",
    "setn", "random_search", "regularized_evolution", "reinforce", "local_search", "tpe", "de", "l2nas", "hyperband",
    "bohb", "dehb",
)  # fmt: skip
"""The methods whose style never changes; a new method is appended."""

CROWD = 9
"""Up to so many methods share a figure, or are told apart in a caption."""
COLOURS = ("#0072B2", "#D55E00", "#000000", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (4.0, 1.5),
    (1.0, 1.2),
    (5.0, 1.2, 1.0, 1.2),
    (5.0, 1.2, 1.0, 1.2, 1.0, 1.2),
    (9.0, 2.0),
    (2.2, 1.0, 2.2, 3.0),
    (9.0, 1.5, 3.0, 1.5),
    (1.0, 3.0),
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
        return (0.0, self.dashes) if self.dashes else "-"


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """Return the style of every label: fixed for known methods, which come first.

    The others follow in natural order (2 before 10) and take the colours and dashes that no known method among the
    labels has.
    """
    present = set(labels)
    fixed = {label: rank for rank, label in enumerate(METHODS) if label in present}
    lines = len(COLOURS) * len(DASHES)
    free = (rank for rank in itertools.count() if rank % lines not in fixed.values())
    return {label: _style(rank) for label, rank in fixed.items()} | {
        label: _style(next(free)) for label in sorted(present - set(METHODS), key=_natural)
    }


def _natural(label: str) -> list[tuple[float, str]]:
    """Return a sorting key that orders numbers inside a text by value."""
    parts = re.split(r"(\d+(?:\.\d+)?)", label)
    return [(float(part), "") if place % 2 else (-1.0, part) for place, part in enumerate(parts)]


def _style(rank: int) -> Style:
    around, colour = divmod(rank, len(COLOURS))
    lap, dash = divmod(around, len(DASHES))
    return Style(COLOURS[colour], DASHES[dash], MARKERS[(colour + dash + lap) % len(MARKERS)])


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
    "svg.fonttype": "path",
    "svg.hashsalt": "nas-stability",
}
