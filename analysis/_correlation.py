"""Rank correlations of many bootstrap draws at once."""

from collections.abc import Callable

import numpy as np
import scipy.stats
from jaxtyping import Float

Runs = Float[np.ndarray, "..."]
"""Shape "... runs columns": λ, regret and, for partial correlations, entropy; bootstrap draws stand before the runs."""
Correlation = Callable[[Runs], Float[np.ndarray, "..."]]
MANY_RUNS = 120


def spearman(runs: Runs) -> Float[np.ndarray, "..."]:
    """Return Spearman's ρ of the first two columns; NaN where one is constant."""
    ranks = scipy.stats.rankdata(runs, axis=-2)
    ranks -= ranks.mean(axis=-2, keepdims=True)
    return _normalised(*(np.asarray(np.einsum("...r,...r->...", ranks[..., i], ranks[..., j])) for i, j in PAIRS))


def kendall(runs: Runs) -> Float[np.ndarray, "..."]:
    """Return Kendall's τ-b of the first two columns; NaN where one is constant.

    scipy's takes one sample at a time, a few hundred microseconds each, where a bootstrap needs thousands; of many runs
    it is the faster one.
    """
    flat = runs.reshape(-1, *runs.shape[-2:])
    if runs.shape[-2] > MANY_RUNS:
        found = [scipy.stats.kendalltau(draw[:, 0], draw[:, 1]).statistic for draw in flat]
        return np.array(found).reshape(runs.shape[:-2])
    chunk = max(1, 2_000_000 // runs.shape[-2] ** 2)
    parts = [_kendall(flat[start : start + chunk]) for start in range(0, len(flat), chunk)]
    return np.concatenate(parts).reshape(runs.shape[:-2])


def _kendall(runs: Float[np.ndarray, "draws runs columns"]) -> Float[np.ndarray, " draws"]:
    signs = [np.sign(runs[:, :, None, i] - runs[:, None, :, i]) for i in (0, 1)]
    return _normalised(*(np.einsum("dij,dij->d", signs[i], signs[j]) for i, j in PAIRS))


PAIRS = ((0, 1), (0, 0), (1, 1))


def _normalised(xy: np.ndarray, xx: np.ndarray, yy: np.ndarray) -> Float[np.ndarray, "..."]:
    scale = np.sqrt(xx * yy)
    return np.divide(xy, scale, out=np.full_like(scale, np.nan), where=scale > 0)


def partial(runs: Runs, correlation: Correlation) -> Float[np.ndarray, "..."]:
    """Return the correlation of the first two columns given the third; NaN where that is perfectly tied to one."""
    xy, xz, yz = (correlation(runs[..., pair]) for pair in ([0, 1], [0, 2], [1, 2]))
    rest = np.asarray((1 - xz**2) * (1 - yz**2))
    apart = rest > 1e-12
    value = np.divide(xy - xz * yz, np.sqrt(np.maximum(rest, 0)), out=np.full_like(rest, np.nan), where=apart)
    return np.asarray(np.clip(value, -1, 1))
