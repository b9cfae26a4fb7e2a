"""Local search with restarts.

Source: White, Nolen, Savani (2021), Exploring the Loss Landscape in Neural Architecture Search,
https://arxiv.org/abs/2005.02960, algorithm 1. Neighbours differ in one decision by one option.

One query:
  1. at a start: a uniform cell.
  2. else the next neighbour of the current cell, in an order drawn anew for every cell.
  3. when all neighbours are known: go to the best of them if it is fitter than the current cell, else start again.
The best fitness ever seen is the result. Sure: best improvement over the whole neighbourhood. Our reading: a start
after a local optimum is a fresh uniform cell; of equal neighbours the first asked for is taken; cells met before are
asked for again (a table answers a repeated query at full cost); a cell that is not in the table has fitness -∞.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from searchers.entry import TableMethod
from searchers.tabular._encoding import Encoding
from searchers.tabular.base import Query, TableResources


@dataclass(frozen=True)
class Settings:
    """Local search has no settings."""


class LocalSearch:
    """Where each repetition is.

    Attributes:
        place: -1: it asks for a start; else the number of neighbours it knows already.
        cells, fitness: the current cell.
        best, best_fitness: the best neighbour so far.
    """

    def __init__(self, _settings: Settings, resources: TableResources) -> None:
        self.resources, self.encoding, self.asked = resources, Encoding(resources.groups), 0
        degrees = self.encoding.degrees
        self.moves = np.array([(gene, way) for gene, degree in enumerate(degrees) for way in range(degree)])
        count = resources.replicas
        self.place = np.full(count, -1)
        self.order = np.zeros((count, len(self.moves)), dtype=np.int64)
        self.cells = np.zeros((count, self.encoding.genes), dtype=np.int64)
        self.fitness = np.full(count, -np.inf)
        self.best, self.best_fitness, self.asking = self.cells.copy(), self.fitness.copy(), self.cells.copy()

    def ask(self) -> Query:
        starts = self.place < 0
        fresh = self.encoding.decode(self.resources.uniform("start", self.asked, self.encoding.genes))
        move = self.moves[self.order[np.arange(len(starts)), np.maximum(self.place, 0)]]
        nearby = self.encoding.neighbour(self.cells, move[:, 0], move[:, 1])
        self.asking = np.where(starts[:, None], fresh, nearby)
        return Query(self.encoding.scores(self.asking), self.resources.budgets[-1])

    def tell(self, fitness: Float[np.ndarray, " replicas"], _cost_s: Float[np.ndarray, " replicas"], /) -> None:
        value = np.where(np.isnan(fitness), -np.inf, fitness)
        starts = self.place < 0
        better = ~starts & ((value > self.best_fitness) | (self.place == 0))
        self.best = np.where(better[:, None], self.asking, self.best)
        self.best_fitness = np.where(better, value, self.best_fitness)
        self.place = self.place + 1
        complete = self.place == len(self.moves)
        climbs = complete & (self.best_fitness > self.fitness)
        self._settle(starts, self.asking, value)
        self._settle(climbs, self.best, self.best_fitness)
        self.place[climbs] = 0
        self.place[complete & ~climbs] = -1
        self.asked += 1

    def _settle(self, who: np.ndarray, cells: np.ndarray, fitness: np.ndarray) -> None:
        """Move repetitions to cells, with a new order of their neighbours."""
        self.cells = np.where(who[:, None], cells, self.cells)
        self.fitness = np.where(who, fitness, self.fitness)
        if who.any():
            order = self.resources.uniform("order", self.asked, len(self.moves)).argsort(1)
            self.order = np.where(who[:, None], order, self.order)


METHOD = TableMethod(
    "local_search",
    Settings,
    LocalSearch,
    "White et al. (2021), Exploring the Loss Landscape in Neural Architecture Search",
)
