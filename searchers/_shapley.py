"""Shapley values by Monte Carlo: players leave one after another, and what each takes along is counted.

Source: Ghorbani, Zou (2019), Data Shapley: Equitable Valuation of Data for Machine Learning,
https://arxiv.org/abs/1904.02868, algorithm 1, with players that leave instead of players that come.

The value of a player is the mean over all orders of v(who is left with it) − v(who is left without it). Every replica
plays its own game in its own orders.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

Coalition = Bool[np.ndarray, "replicas players"]
Game = Callable[[Coalition], Float[np.ndarray, " replicas"]]
"""Who is left, to what they are worth."""

ROUNDING = 1e-9
"""Accuracies differ by whole images or not at all."""

Shares = Float[np.ndarray, "replicas players"]


def leave_in_order(game: Game, orders: Int[np.ndarray, "replicas players"], truncation: float) -> Shares:
    """Return what each player takes along when they leave in these orders.

    Where those who are left are worth less than `truncation` times the worth of all, who leaves next counts zero and
    nobody is left; −∞ goes on to the end.
    """
    replicas = np.arange(len(orders))
    left, shares = np.ones(orders.shape, bool), np.zeros(orders.shape)
    whole = before = game(left)
    goes_on = np.ones(len(orders), bool)
    for leaving in orders.T:
        left[replicas, leaving] = False
        left[~goes_on] = False
        after = game(left)
        shares[replicas, leaving] = np.where(goes_on, before - after, 0.0)
        goes_on &= after >= truncation * whole
        before = after
        if not goes_on.any():
            break
    return shares


def cautious(shares: Float[np.ndarray, "samples replicas players"]) -> Shares:
    """Return mean − standard deviation over the samples."""
    return shares.mean(0) - shares.std(0)


def standardised(
    values: Float[np.ndarray, "replicas decisions options"], left_out: int | None = None
) -> Float[np.ndarray, "..."]:
    """Return the values of each replica with mean 0 and standard deviation 1; 0 where they differ by rounding only.

    The option that is left out does not count, and has 0.
    """
    counts = np.ones(values.shape[-1], bool)
    counts[[] if left_out is None else left_out] = False
    centred = values - values[..., counts].mean((1, 2), keepdims=True)
    spread = centred[..., counts].std((1, 2), keepdims=True)
    return np.where(counts & (spread > ROUNDING), centred / np.maximum(spread, ROUNDING), 0.0)
