"""Panels of the figures that have one point or one number a run: λ against regret, performance profiles."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes

from analysis import _panels
from analysis.intervals import FEWEST_SEEDS, bootstrap_interval
from analysis.series import generator, linear_threshold
from analysis.style import MEAN_PT, Style


def lambda_regret(axes: list[Axes], found: pd.DataFrame, styles: _panels.Styles) -> None:
    """Draw the final test regret against the final λ: a marker a run, the mean of each method with its intervals."""
    (ax,) = axes
    for label, rows in _panels.by_label(found.dropna(subset="lambda_and_regret"), styles):
        points = rows[["lambda_final", "final_regret_test"]].to_numpy(np.float64)
        _draw_cloud(ax, points, styles[label])
    _panels.name(ax, "λ at the end (signed)", "final test regret")
    _panels.scale_x(ax, linear_threshold(found["lambda_final"].to_numpy(np.float64)))
    _panels.scale(ax, linear_threshold(found["final_regret_test"].to_numpy(np.float64)))
    ax.set_ylim(min(0.0, ax.dataLim.ymin), 1.15 * max(ax.dataLim.ymax, _panels.REGRET_THRESHOLD))


def _draw_cloud(ax: Axes, points: Float[np.ndarray, "seeds 2"], style: Style) -> None:
    enough = len(points) >= FEWEST_SEEDS
    look: dict[str, Any] = {"color": style.colour, "linestyle": "none", "marker": style.marker}
    ax.plot(*points.T, **look, markersize=2.2 if enough else 3.5, alpha=0.55 if enough else 1.0, markeredgewidth=0)
    if not enough:
        return
    middle = bootstrap_interval(points, generator())
    (x, y), (x_low, y_low), (x_high, y_high) = middle.mean, middle.low, middle.high
    ax.plot([x_low, x_high], [y, y], color=style.colour, linewidth=0.7, zorder=3)
    ax.plot([x, x], [y_low, y_high], color=style.colour, linewidth=0.7, zorder=3)
    ax.plot([x], [y], **look, markersize=5, markeredgecolor="white", markeredgewidth=0.5, zorder=4)


def profile(axes: list[Axes], found: pd.DataFrame, styles: _panels.Styles) -> None:
    """Draw the share of seeds with at most a regret, as steps over all regrets that occur."""
    (ax,) = axes
    regrets = found["final_regret_test"].to_numpy(np.float64)
    seen = np.unique(regrets[np.isfinite(regrets)])
    grid = np.concatenate([[0.0], seen, [1.2 * max(seen[-1], _panels.REGRET_THRESHOLD)]])
    faint = 0.5 * _panels.BAND_ALPHA * _panels.fading(styles)
    for label, rows in _panels.by_label(found.dropna(subset="final_regret_test"), styles):
        shares = bootstrap_interval(
            (rows["final_regret_test"].to_numpy(np.float64)[:, None] <= grid).astype(np.float64), generator()
        )
        style = styles[label]
        look: dict[str, Any] = {"color": style.colour}
        ax.plot(grid, shares.mean, drawstyle="steps-post", linestyle=style.line, linewidth=MEAN_PT, **look)
        ax.fill_between(grid, shares.low, shares.high, step="post", alpha=faint, linewidth=0, **look)
    random = (found["optimum_test"] - found["random_test"]).dropna().to_numpy(np.float64)[:1]
    for regret in random:
        ax.axvline(regret, **_panels.REFERENCES["random cell"])
    ax.set_ylim(-0.02, 1.04)
    _panels.name(ax, "test regret", "share of seeds")
    _panels.scale_x(ax, linear_threshold(regrets))
    ax.set_xlim(0, max(grid[-1], *(1.1 * random)))
