"""Differential evolution on the unit cube: mutation, repair, crossover.

Source: Storn and Price (1997), Differential Evolution, https://doi.org/10.1023/A:1008202821328: rand/1/bin.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Points = Float[np.ndarray, "replicas genes"]
Pool = Float[np.ndarray, "replicas members genes"]


@dataclass(frozen=True)
class Variation:
    """Settings of a child.

    Attributes:
        scale: F, of the difference.
        crossover: CR, probability that a gene is the mutant's.
    """

    scale: float = 0.5
    crossover: float = 0.5

    def __post_init__(self) -> None:
        if self.scale < 0 or not 0 <= self.crossover <= 1:
            raise ValueError(f"expected a scale of at least 0 and a crossover in [0, 1], got {self}")


def draws_needed(members: int, genes: int) -> int:
    """Return how many numbers `child` takes."""
    return members + 2 * genes + 1


def child(target: Points, pool: Pool, itself: int | None, draws: np.ndarray, variation: Variation) -> Points:
    """Return a + F (b - c), crossed with the target; a, b, c are three members of the pool other than the target.

    `itself` is the place of the target in the pool, None where it is not in it. A coordinate outside [0, 1) is drawn
    anew; one coordinate is always the mutant's.
    """
    members, genes = pool.shape[1:]
    order, fresh, cross, forced = np.split(draws, [members, members + genes, members + 2 * genes], axis=1)
    if itself is not None:
        order = np.where(np.arange(members) == itself, 2.0, order)
    three: Int[np.ndarray, "replicas 3"] = np.argsort(order, axis=1)[:, :3]
    a, b, c = (pool[np.arange(len(pool)), places] for places in three.T)
    mutant = a + variation.scale * (b - c)
    mutant = np.where((mutant < 0) | (mutant >= 1), fresh, mutant)
    taken = (cross < variation.crossover) | (np.arange(genes) == (forced * genes).astype(np.int64))
    return np.where(taken, mutant, target)
