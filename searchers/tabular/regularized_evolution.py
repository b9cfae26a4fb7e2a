"""Regularized (aging) evolution.

Source: Real, Aggarwal, Huang, Le (2019), Regularized Evolution for Image Classifier Architecture Search,
https://arxiv.org/abs/1802.01548, algorithm 1; sizes of Dong and Yang (2020), NAS-Bench-201, and for the spaces of
NAS-Bench-1Shot1 (population 100, tournament 10, identity 1/3) of Zela et al. (2020).

The first `population` queries are uniform cells. After that, one query:
  1. draw `sample` members with replacement; the fittest is the parent (ties: drawn first).
  2. mutate: with probability `identity` nothing; else draw a kind (operation or edge, each 1/2 where the space has
     both), a decision of that kind, and swap one of its options for another one.
  3. the child replaces the oldest member, whatever its fitness.
The best fitness ever seen is the result. Sure: algorithm 1, sizes. Our reading: with replacement (the algorithm says
"random element"); a cell that is not in the table enters with fitness -∞, so it never is a parent of its own accord.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from searchers.entry import TableMethod
from searchers.tabular._encoding import Encoding
from searchers.tabular.base import Query, TableResources


@dataclass(frozen=True)
class Settings:
    """Sizes of NAS-Bench-201.

    Attributes:
        population: members, constant after the first queries.
        sample: members in a tournament.
        identity: probability that the child is its parent.
    """

    population: int = 10
    sample: int = 3
    identity: float = 0.0

    def __post_init__(self) -> None:
        if self.population < 1 or self.sample < 1 or not 0 <= self.identity <= 1:
            raise ValueError(f"expected population and sample of at least 1 and identity in [0, 1], got {self}")


class RegularizedEvolution:
    """A ring of members in the order of their age.

    Attributes:
        members: `replicas population genes`; place n % population holds the n-th query.
        fitness: of the members, -∞ for misses.
    """

    def __init__(self, settings: Settings, resources: TableResources) -> None:
        self.settings, self.resources = settings, resources
        self.encoding, self.asked = Encoding(resources.groups), 0
        size = resources.replicas, settings.population
        self.members = np.zeros((*size, self.encoding.genes), dtype=np.int64)
        self.fitness = np.full(size, -np.inf)
        self.child = self.members[:, 0]

    def ask(self) -> Query:
        self.child = self._random() if self.asked < self.settings.population else self._mutant(self._parent())
        return Query(self.encoding.scores(self.child), self.resources.budgets[-1])

    def tell(self, fitness: Float[np.ndarray, " replicas"], _cost_s: Float[np.ndarray, " replicas"], /) -> None:
        oldest = self.asked % self.settings.population
        self.members[:, oldest] = self.child
        self.fitness[:, oldest] = np.where(np.isnan(fitness), -np.inf, fitness)
        self.asked += 1

    def _random(self) -> Int[np.ndarray, "replicas genes"]:
        return self.encoding.decode(self.resources.uniform("cell", self.asked, self.encoding.genes))

    def _parent(self) -> Int[np.ndarray, "replicas genes"]:
        draws = self.resources.uniform("tournament", self.asked, self.settings.sample)
        places = (draws * self.settings.population).astype(np.int64)
        best = np.take_along_axis(self.fitness, places, 1).argmax(1)
        rows = np.arange(len(places))
        return self.members[rows, places[rows, best]]

    def _mutant(self, parents: Int[np.ndarray, "replicas genes"]) -> Int[np.ndarray, "replicas genes"]:
        same, kind, place, which = self.resources.uniform("mutation", self.asked, 4).T
        kinds = [np.flatnonzero(self.encoding.kinds == name) for name in ("op", "edge")]
        kinds = [genes for genes in kinds if len(genes)]
        chosen = (kind * len(kinds)).astype(np.int64)
        gene = np.choose(chosen, [genes[(place * len(genes)).astype(np.int64)] for genes in kinds])
        mutants = self.encoding.neighbour(parents, gene, (which * self.encoding.degrees[gene]).astype(np.int64))
        return np.where((same < self.settings.identity)[:, None], parents, mutants)


METHOD = TableMethod(
    "regularized_evolution",
    Settings,
    RegularizedEvolution,
    "Real et al. (2019), Regularized Evolution for Image Classifier Architecture Search",
)
