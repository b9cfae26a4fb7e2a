"""Random search on a table.

Source: Bergstra and Bengio (2012), Random Search for Hyper-Parameter Optimization,
https://jmlr.org/papers/v13/bergstra12a.html; as a baseline of architecture search: Li and Talwalkar (2019),
https://arxiv.org/abs/1902.07638.

One query: a cell, uniform over encodings, drawn with replacement (a cell may come twice and is paid twice). The best
fitness seen is the result. Every rule is sure.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from searchers.entry import TableMethod
from searchers.tabular._encoding import Encoding
from searchers.tabular.base import Query, TableResources


@dataclass(frozen=True)
class Settings:
    """Random search has no settings."""


class RandomSearch:
    """Draws uniform cells."""

    def __init__(self, _settings: Settings, resources: TableResources) -> None:
        self.resources, self.encoding, self.asked = resources, Encoding(resources.groups), 0

    def ask(self) -> Query:
        points = self.resources.uniform("cell", self.asked, self.encoding.genes)
        self.asked += 1
        return Query(self.encoding.scores(self.encoding.decode(points)), self.resources.budgets[-1])

    def tell(self, _fitness: Float[np.ndarray, " replicas"], _cost_s: Float[np.ndarray, " replicas"], /) -> None:
        """Fitness changes nothing."""


METHOD = TableMethod(
    "random_search",
    Settings,
    RandomSearch,
    "Bergstra and Bengio (2012), Random Search for Hyper-Parameter Optimization",
)
