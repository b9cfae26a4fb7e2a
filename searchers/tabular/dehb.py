"""DEHB: the brackets of Hyperband, evolved by differential evolution.

Source: Awad, Mallik, Hutter (2021), DEHB: Evolutionary Hyperband for Scalable, Robust and Efficient Hyperparameter
Optimization, https://arxiv.org/abs/2105.09821, section 4.

Every rung has a subpopulation, as large as the most cells a bracket asks for there; it starts as uniform points without
fitness. One query:
  1. in the first bracket: on its lowest rung the subpopulation's own points, on the others the fittest of the rung
     below (plain successive halving); each takes the place of a member.
  2. later: a child of the member whose turn it is (a rolling pointer a rung). The three parents come from the rung's
     own subpopulation where the bracket starts, else from the fittest of the rung below, as many as the stage has
     cells. A pool of fewer than four is replaced by all subpopulations together.
  3. a child that is as fit as the member or fitter takes its place at once.
The incumbent is the best fitness at the largest budget seen. Sure: subpopulations, first bracket, parent pools,
F = CR = 1/2, rand/1/bin. Our reading: the pool of all subpopulations includes points without fitness; selection is
immediate. The authors' library is not used for the reasons given in `de`.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from searchers.entry import TableMethod
from searchers.tabular._differential import Points, Pool, Variation, child, draws_needed
from searchers.tabular._encoding import Encoding
from searchers.tabular._halving import Stage, brackets, stages, too_few
from searchers.tabular.base import Query, TableResources


@dataclass(frozen=True)
class Settings:
    """Defaults of the paper."""

    eta: int = 3
    variation: Variation = field(default_factory=Variation)

    def __post_init__(self) -> None:
        if self.eta < 2:
            raise ValueError(f"expected eta of at least 2, got {self.eta}")


class DEHB:
    """Subpopulations by budget.

    Attributes:
        points, fitness: members of every rung, -∞ where a member has not been asked for.
        turn: the member of every rung that is next.
        done: queries of the stage under way.
    """

    def __init__(self, settings: Settings, resources: TableResources) -> None:
        self.settings, self.resources, self.encoding = settings, resources, Encoding(resources.groups)
        self.steps = stages(resources.budgets, settings.eta)
        self.stage = next(self.steps)
        self.points: dict[int, Pool] = {}
        self.fitness: dict[int, Float[np.ndarray, "replicas members"]] = {}
        every = [rung for bracket in brackets(resources.budgets, settings.eta) for rung in bracket]
        for budget in sorted({rung.budget for rung in every}):
            shape = max(rung.cells for rung in every if rung.budget == budget), self.encoding.genes
            draws = resources.uniform(f"population {budget}", 0, shape[0] * shape[1])
            self.points[budget] = draws.reshape(-1, *shape).copy()
            self.fitness[budget] = np.full(self.points[budget].shape[:2], -np.inf)
        self.turn = dict.fromkeys(self.points, 0)
        self.below = 0
        self.asked = self.done = 0
        self.asking: Points = self.points[self.stage.rung.budget][:, 0]

    def ask(self) -> Query:
        if self.done == self.stage.rung.cells:
            self.below, self.stage, self.done = self.stage.rung.budget, next(self.steps), 0
        self.asking = self._initial(self.stage) if self.stage.bracket == 0 else self._child(self.stage)
        return Query(self.encoding.scores(self.encoding.decode(self.asking)), self.stage.rung.budget)

    def tell(self, fitness: Float[np.ndarray, " replicas"], _cost_s: Float[np.ndarray, " replicas"], /) -> None:
        budget = self.stage.rung.budget
        value = np.where(np.isnan(fitness), -np.inf, fitness)
        place, known = self.turn[budget], self.fitness[budget]
        better = value >= known[:, place]
        self.points[budget][better, place] = self.asking[better]
        known[better, place] = value[better]
        self.turn[budget] = (place + 1) % known.shape[1]
        self.asked, self.done = self.asked + 1, self.done + 1

    def _initial(self, stage: Stage) -> Points:
        """Return the member itself, or the next fittest of the rung below."""
        if stage.first:
            return self.points[stage.rung.budget][:, self.turn[stage.rung.budget]]
        return self._fittest(self.below, stage.rung.cells)[:, self.done]

    def _child(self, stage: Stage) -> Points:
        place = self.turn[stage.rung.budget]
        members = self.points[stage.rung.budget]
        pool = members if stage.first else self._fittest(self.below, stage.rung.cells)
        itself = place if stage.first else None
        if pool.shape[1] < 4:
            pool, itself = np.concatenate(list(self.points.values()), 1), None
        draws = self.resources.uniform(f"child {pool.shape[1]}", self.asked, draws_needed(*pool.shape[1:]))
        return child(members[:, place], pool, itself, draws, self.settings.variation)

    def _fittest(self, budget: int, count: int) -> Pool:
        order = np.argsort(-self.fitness[budget], axis=1, kind="stable")[:, :count]
        return np.take_along_axis(self.points[budget], order[..., None], 1)


METHOD = TableMethod(
    "dehb",
    Settings,
    DEHB,
    "Awad et al. (2021), DEHB",
    budgets=True,
    unfit=lambda settings, budgets: too_few(budgets, settings.eta),
)
