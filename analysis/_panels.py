"""Panels of trajectories: one column of axes a space."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, SymmetricalLogLocator

from analysis import series
from analysis.intervals import FEWEST_SEEDS, bootstrap_interval
from analysis.series import Trajectory, mean_path
from analysis.style import GREY, MEAN_PT, SEED_PT, Style

Styles = dict[str, Style]
BAND_ALPHA = 0.18
SEED_ALPHA = 0.45
FADE_ABOVE = 3
"""Above this number of methods bands and seeds fade, so that the means stay readable."""
REGRET_THRESHOLD = 1e-3
"""Below a tenth of a percent the regret axis is linear, so that a regret of zero can be drawn."""


def eigenvalues(axes: list[Axes], frame: pd.DataFrame, styles: Styles) -> None:
    """Draw λ against the epoch."""
    _against_epoch(axes, frame, styles, "lambda_dominant", "λ (signed)")


def legacy(axes: list[Axes], frame: pd.DataFrame, styles: Styles) -> None:
    """Draw what earlier papers plotted against the epoch."""
    _against_epoch(axes, frame, styles, "lambda_legacy", "λ as earlier papers")


def _against_epoch(axes: list[Axes], frame: pd.DataFrame, styles: Styles, column: str, title: str) -> None:
    (ax,) = axes
    for label, rows in by_label(frame, styles):
        _draw_trajectory(ax, series.trajectory(rows, column).measured(), styles[label], fading(styles))
    scale(ax, series.linear_threshold(frame[column].to_numpy(np.float64)))
    ax.axhline(0, color=GREY, linewidth=0.6, zorder=1)
    name(ax, "epoch", title)


def regret(axes: list[Axes], frame: pd.DataFrame, styles: Styles) -> None:
    """Draw the regret and the test error of the discretised cell against the epoch."""
    above, below = axes
    for label, rows in by_label(frame, styles):
        for ax, column in ((above, "regret_test"), (below, "error_test")):
            _draw_trajectory(ax, series.trajectory(rows, column).measured(), styles[label], fading(styles))
    _draw_finals(axes, frame, styles)
    _draw_misses(above, frame, styles)
    _draw_references(axes, frame)
    scale(above, series.linear_threshold(frame["regret_test"].to_numpy(np.float64)))
    highest = above.dataLim.ymax if np.isfinite(above.dataLim.ymax) else REGRET_THRESHOLD
    above.set_ylim(0, 1.15 * max(highest, REGRET_THRESHOLD))
    name(above, "epoch", "test regret")
    name(below, "epoch", "test error")


def alpha_distance(axes: list[Axes], frame: pd.DataFrame, styles: Styles) -> None:
    """Draw the training loss against the distance of the logits to their final values, and of the weights."""
    for label, rows in by_label(frame, styles):
        loss = series.trajectory(rows, "train_loss")
        for ax, column in zip(axes, series.DISTANCES, strict=True):
            _draw_path(ax, series.trajectory(rows, column).values, loss.values, styles[label], fading(styles))
    name(axes[0], "‖α(t) − α(T)‖", "training loss (nats)")
    name(axes[1], "‖α(t) − α(T)‖ / ‖α(0) − α(T)‖", "training loss (nats)")
    name(axes[2], "‖p(t) − p(T)‖, mixing weights", "training loss (nats)")


def empty(axes: list[Axes], named: Sequence[str]) -> None:
    """Say that a space has no values; keep the vertical axes' names in the first column."""
    for ax, name in zip(axes, named, strict=True):
        place = ax.get_subplotspec()
        if place is not None and place.is_first_col():
            ax.set_ylabel(name)
        ax.text(0.5, 0.5, "no values", transform=ax.transAxes, ha="center", va="center", color=GREY)
        ax.set(xticks=[], yticks=[])


def by_label(frame: pd.DataFrame, styles: Styles) -> list[tuple[str, pd.DataFrame]]:
    """Return the rows of every label that the frame has, in the order of the styles."""
    return [(label, frame[frame["label"] == label]) for label in styles if (frame["label"] == label).any()]


def handle(label: str, style: Style, marked: bool = False) -> Line2D:
    """Return a legend's entry: a line, or a marker alone."""
    point = {"marker": style.marker, "markersize": 3.5, "linestyle": "none"}
    line = {"linestyle": style.line, "linewidth": MEAN_PT}
    return Line2D([], [], color=style.colour, label=label, **(point if marked else line))


def is_one_point(rows: pd.DataFrame, column: str) -> bool:
    """Tell whether a column has values at one epoch only, which are drawn as markers."""
    return rows.loc[rows[column].notna(), "epoch"].nunique() == 1


def fading(styles: Styles) -> float:
    return min(1.0, FADE_ABOVE / max(len(styles), 1))


def _draw_trajectory(ax: Axes, path: Trajectory, style: Style, fading: float) -> None:
    """Draw every seed thin, and the mean and its interval where there are enough seeds."""
    if path.epochs.size == 0:
        return
    marker = style.marker if path.epochs.size == 1 else ""
    look: dict[str, Any] = {"color": style.colour, "linestyle": style.line, "marker": marker, "markersize": 2.0}
    interval = path.interval()
    enough = interval.n >= FEWEST_SEEDS
    thin: dict[str, Any] = (
        {"linewidth": SEED_PT, "alpha": SEED_ALPHA * fading} if enough.any() else {"linewidth": 2 * SEED_PT}
    )
    ax.plot(path.epochs, path.values.T, **look, **thin)
    ax.plot(path.epochs, np.where(enough, interval.mean, np.nan), **look, linewidth=MEAN_PT, zorder=3)
    ax.fill_between(
        path.epochs, interval.low, interval.high, color=style.colour, alpha=BAND_ALPHA * fading, linewidth=0
    )


def _draw_path(ax: Axes, x: np.ndarray, y: np.ndarray, style: Style, fading: float) -> None:
    """Draw every seed's path in the plane, the mean path over seeds, and a marker where each path begins."""
    seen = np.isfinite(x) & np.isfinite(y)
    mean = mean_path(x, y)
    thin: dict[str, Any] = (
        {"linewidth": 2 * SEED_PT} if mean is None else {"linewidth": SEED_PT, "alpha": SEED_ALPHA * fading}
    )
    look: dict[str, Any] = {"color": style.colour, "linestyle": style.line}
    start: dict[str, Any] = {"marker": style.marker, "markersize": 3.5, "markerfacecolor": "white", "markevery": [0]}
    for seed, ok in enumerate(seen):
        if ok.any():
            ax.plot(x[seed][ok], y[seed][ok], **look, **thin, **(start if mean is None else {}))
    if mean is not None:
        ax.plot(*mean, **look, **start, linewidth=MEAN_PT, zorder=3)


def _draw_finals(axes: list[Axes], frame: pd.DataFrame, styles: Styles) -> None:
    """Draw what was selected at the end, right of the last epoch, where no search epoch shows it."""
    last = frame["epoch"].max()
    place = last
    for label, rows in by_label(frame, styles):
        if not series.selection_changed(rows, "regret_test"):
            continue
        place = place + 0.03 * last
        for ax, column in zip(axes, ("regret_test", "error_test"), strict=True):
            _draw_point(ax, place, series.final_values(rows, column), styles[label])


def _draw_point(ax: Axes, x: float, values: np.ndarray, style: Style) -> None:
    """Draw the mean of some seeds with its interval; of too few seeds, each seed."""
    interval = bootstrap_interval(values, series.generator())
    shown = np.atleast_1d(interval.mean) if interval.n >= FEWEST_SEEDS else values
    ax.plot(np.full(len(shown), x), shown, style.marker, color=style.colour, markersize=3.5, zorder=4)
    ax.plot([x, x], [interval.low, interval.high], color=style.colour, linewidth=MEAN_PT, zorder=3)


def _draw_misses(ax: Axes, frame: pd.DataFrame, styles: Styles) -> None:
    """Mark the epochs at which a cell was not in the table, just above the bottom axis, one height a method."""
    height = 0.03
    for label, rows in by_label(frame, styles):
        epochs = np.unique(rows.loc[rows["miss"], "epoch"].to_numpy())
        if epochs.size:
            heights = np.full(len(epochs), height)
            ax.plot(epochs, heights, "x", color=styles[label].colour, markersize=3, transform=ax.get_xaxis_transform())
            height += 0.05


def _draw_references(axes: list[Axes], frame: pd.DataFrame) -> None:
    """Draw the mean error of a random cell and the least error of the table."""
    above, below = axes
    best, random = (1 - frame[name].dropna().to_numpy(np.float64)[:1] for name in ("optimum_test", "random_test"))
    for error in best:
        below.axhline(error, **REFERENCES["best cell of the table"])
        for other in random:
            above.axhline(other - error, **REFERENCES["random cell"])
    for error in random:
        below.axhline(error, **REFERENCES["random cell"])


REFERENCES: dict[str, dict[str, Any]] = {
    "random cell": {"color": GREY, "linewidth": 0.9, "linestyle": (0, (6, 2)), "zorder": 1},
    "best cell of the table": {"color": GREY, "linewidth": 0.9, "linestyle": (0, (1, 1)), "zorder": 1},
}


def scale(ax: Axes, threshold: float | None) -> None:
    """Make the vertical axis symmetric logarithmic above a threshold, with plain numbers at its ticks."""
    if threshold is None:
        return
    ax.set_yscale("symlog", linthresh=threshold, linscale=0.4)
    _plain_ticks(ax.yaxis, threshold)


def scale_x(ax: Axes, threshold: float | None) -> None:
    """Make the horizontal axis symmetric logarithmic above a threshold, with plain numbers at its ticks."""
    if threshold is None:
        return
    ax.set_xscale("symlog", linthresh=threshold, linscale=0.4)
    _plain_ticks(ax.xaxis, threshold)


class _Ticks(SymmetricalLogLocator):
    """Powers of ten, and their multiples by 2 and 5 where the powers are few."""

    def __init__(self, threshold: float) -> None:
        super().__init__(base=10, linthresh=threshold)
        self.threshold = threshold

    def tick_values(self, vmin: float, vmax: float) -> Any:
        few = max(abs(vmin), abs(vmax)) < 30 * self.threshold
        self.set_params(subs=(1.0, 2.0, 5.0) if few else (1.0,))
        return super().tick_values(vmin, vmax)


def _plain_ticks(axis: Axis, threshold: float) -> None:
    axis.set_major_locator(_Ticks(threshold))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))


def name(ax: Axes, x: str, y: str) -> None:
    """Name the axes, the vertical one in the first column only, and keep their ticks few."""
    ax.set_xlabel(x)
    place = ax.get_subplotspec()
    if place is not None and place.is_first_col():
        ax.set_ylabel(y)
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], integer=x == "epoch"))
