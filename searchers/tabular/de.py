"""Differential evolution over cells.

Source: Awad, Mallik, Hutter (2020), Differential Evolution for Neural Architecture Search,
https://arxiv.org/abs/2012.06400; rand/1/bin of Storn and Price (1997).

A cell is a point of the unit cube, a coordinate a decision; equal shares of [0, 1) are its options. The first
`population` queries are uniform points. After that, one generation:
  1. for every member a child: three other members a, b, c; a + F (b - c), coordinates outside are drawn anew; a
     coordinate is the mutant's with probability CR, one always.
  2. ask for the children one by one.
  3. a child that is as fit as its parent or fitter takes its place, all at once after the generation.
The best fitness seen is the result. Sure: everything but that a cell outside the table has fitness -∞. The authors'
library (DEHB) needs a cluster scheduler, writes a log file an instance and takes a millisecond a query of one
repetition, so this is ours, for all repetitions at once.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from searchers.entry import TableMethod
from searchers.tabular._differential import Variation, child, draws_needed
from searchers.tabular._encoding import Encoding
from searchers.tabular.base import Query, TableResources


@dataclass(frozen=True)
class Settings:
    """Defaults of the paper."""

    population: int = 20
    variation: Variation = field(default_factory=Variation)

    def __post_init__(self) -> None:
        if self.population < 4:
            raise ValueError(f"expected a population of at least 4, got {self.population}")


class DE:
    """A population and the generation that is being asked for."""

    def __init__(self, settings: Settings, resources: TableResources) -> None:
        self.settings, self.resources = settings, resources
        self.encoding, self.asked = Encoding(resources.groups), 0
        shape = settings.population, self.encoding.genes
        self.points = resources.uniform("population", 0, shape[0] * shape[1]).reshape(-1, *shape)
        self.fitness = np.full(self.points.shape[:2], -np.inf)
        self.children, self.reached = self.points.copy(), self.fitness.copy()

    def ask(self) -> Query:
        place = self.asked % self.settings.population
        if place == 0 and self.asked:
            self.children = self._generation()
        cells = self.encoding.decode(self.children[:, place])
        return Query(self.encoding.scores(cells), self.resources.budgets[-1])

    def tell(self, fitness: Float[np.ndarray, " replicas"], _cost_s: Float[np.ndarray, " replicas"], /) -> None:
        place = self.asked % self.settings.population
        self.reached[:, place] = np.where(np.isnan(fitness), -np.inf, fitness)
        self.asked += 1
        if place == self.settings.population - 1:
            better = self.reached >= self.fitness
            self.points = np.where(better[..., None], self.children, self.points)
            self.fitness = np.where(better, self.reached, self.fitness)

    def _generation(self) -> Float[np.ndarray, "replicas members genes"]:
        size = draws_needed(*self.points.shape[1:])
        found = []
        for place in range(self.settings.population):
            draws = self.resources.uniform("child", self.asked + place, size)
            found.append(child(self.points[:, place], self.points, place, draws, self.settings.variation))
        return np.stack(found, 1)


METHOD = TableMethod("de", Settings, DE, "Awad et al. (2020), Differential Evolution for Neural Architecture Search")
