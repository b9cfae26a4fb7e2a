"""Means and bootstrap intervals over seeds.

Source: B. Efron and R. Tibshirani (1993), An Introduction to the Bootstrap, chapter 13 (the percentile interval).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

FEWEST_SEEDS = 3
"""Below this number of seeds no interval is stated."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its interval.

    Attributes:
        mean: NaN where no seed has a value.
        low: NaN where fewer than `FEWEST_SEEDS` seeds have a value, as is `high`.
        n: number of seeds with a value.
    """

    mean: Float[np.ndarray, "*shape"]
    low: Float[np.ndarray, "*shape"]
    high: Float[np.ndarray, "*shape"]
    n: Int[np.ndarray, "*shape"]


def bootstrap_interval(
    values: Float[np.ndarray, " seeds *shape"],
    rng: np.random.Generator,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Return the mean over seeds and its percentile bootstrap interval.

    Whole seeds are drawn with replacement, so the epochs of one seed stay together. A value that is not finite counts
    as missing: it enters neither the mean nor `n`.
    """
    seeds, shape = values.shape[0], values.shape[1:]
    flat = values.reshape(seeds, -1).astype(np.float64)
    draws = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) if seeds else np.zeros((1, 0))
    mean = _weighted_mean(np.ones((1, seeds)), flat)[0]
    tails = 100 * (1 - level) / 2, 100 * (1 + level) / 2
    n = np.isfinite(flat).sum(axis=0)
    stated = n >= FEWEST_SEEDS
    low, high = np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    if stated.any():
        low[stated], high[stated] = np.nanpercentile(_weighted_mean(draws, flat[:, stated]), tails, axis=0)
    # Rounding alone can put the mean of equal values outside its own interval.
    low, high = np.minimum(low, mean), np.maximum(high, mean)
    return Interval(mean.reshape(shape), low.reshape(shape), high.reshape(shape), n.reshape(shape))


def _weighted_mean(
    weights: Float[np.ndarray, "resamples seeds"] | Int[np.ndarray, "resamples seeds"],
    values: Float[np.ndarray, "seeds columns"],
) -> Float[np.ndarray, "resamples columns"]:
    """Return the mean of the finite values of each column, NaN where a resample drew none."""
    present = np.isfinite(values)
    total = weights @ np.where(present, values, 0.0)
    count = (weights @ present).astype(np.float64)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
