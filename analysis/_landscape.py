"""Slices of the validation loss through the final logits: along the eigenvector of λ, and along random directions."""

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes

from analysis._panels import Styles, by_label, fading, name
from analysis.intervals import FEWEST_SEEDS, bootstrap_interval
from analysis.series import generator
from analysis.style import MEAN_PT, Style

SEED_PT = 0.7


def with_slices(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with `landscape`: the largest rise of the loss along the eigenvector, NaN without slices."""
    present = frame["landscape_loss"].notna().to_numpy()
    rises = np.full(len(frame), np.nan)
    rises[present] = [np.nanmax(_rises(t, loss)[0]) for t, loss in _pairs(frame[present])]
    return frame.assign(landscape=rises)


TITLES = ("Δ loss along λ's vector", "Δ loss, random directions")


def slices(axes: list[Axes], frame: pd.DataFrame, styles: Styles) -> None:
    """Draw the rise of the loss over t, along the eigenvector and, in the second panel, along random directions."""
    for label, rows in by_label(frame[frame["landscape"].notna()], styles):
        found = [(t, _rises(t, loss)) for t, loss in _pairs(rows)]
        t = found[0][0]
        eigen, random = np.stack([r[0] for _, r in found]), np.stack([r[1:].mean(0) for _, r in found])
        for ax, values in zip(axes, (eigen, random), strict=True):
            _draw(ax, t, values, styles[label], fading(styles))
    for ax, title in zip(axes, TITLES, strict=True):
        name(ax, "t (logits)", title)


def _pairs(frame: pd.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(zip(frame["landscape_t"], frame["landscape_loss"], strict=True))


def _rises(t: np.ndarray, loss: np.ndarray) -> Float[np.ndarray, "directions points"]:
    """Return the loss of every direction minus that at t = 0."""
    table = loss.reshape(-1, len(t))
    return table - table[:, len(t) // 2 : len(t) // 2 + 1]


def _draw(ax: Axes, t: np.ndarray, values: Float[np.ndarray, "seeds points"], style: Style, fade: float) -> None:
    enough = len(values) >= FEWEST_SEEDS
    for row in values:
        ax.plot(
            t, row, color=style.colour, linestyle=style.line, linewidth=SEED_PT, alpha=fade * (0.35 if enough else 1)
        )
    if enough:
        interval = bootstrap_interval(values, generator())
        ax.fill_between(t, interval.low, interval.high, color=style.colour, alpha=0.2 * fade, linewidth=0)
        ax.plot(t, interval.mean, color=style.colour, linestyle=style.line, linewidth=MEAN_PT)
