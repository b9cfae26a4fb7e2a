"""Successive halving in the brackets of Hyperband; who proposes cells is passed in.

Rungs are stored budgets, each `eta` times the one below. Bracket s = S, S-1, …, 0 starts ⌈(S+1)/(s+1) eta^s⌉ cells on
rung S-s; the best ⌊n/eta⌋ go on to the next rung, where they are trained again from the start (that is what a table's
times say). After bracket 0 comes bracket S again. The schedule depends on the query's number only, so all repetitions
keep in step.
"""

import math
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from searchers.tabular._encoding import Encoding, Genes
from searchers.tabular.base import Query


class Rung(NamedTuple):
    """So many cells at one budget."""

    cells: int
    budget: int


class Stage(NamedTuple):
    """A rung of a bracket under way; `first`: the lowest of its bracket."""

    rung: Rung
    first: bool
    bracket: int


def rungs(budgets: tuple[int, ...], eta: int) -> tuple[int, ...]:
    """Return the stored budgets that are the largest divided by powers of eta, to the nearest epoch, ascending."""
    found = [max(budgets)]
    while near := [b for b in budgets if b < found[0] and abs(b - found[0] / eta) <= 0.5]:
        found.insert(0, min(near, key=lambda b: abs(b - found[0] / eta)))
    return tuple(found)


def too_few(budgets: tuple[int, ...], eta: int) -> str | None:
    """Return why halving cannot run on these budgets, None where it can."""
    if len(rungs(budgets, eta)) > 1:
        return None
    return f"it needs budgets that are {eta} times each other below the largest, the table has {budgets}"


def brackets(budgets: tuple[int, ...], eta: int) -> list[list[Rung]]:
    """Return the rungs of every bracket, the one that starts lowest first."""
    steps = rungs(budgets, eta)
    most = len(steps) - 1
    found = []
    for s in range(most, -1, -1):
        cells = math.ceil((most + 1) / (s + 1) * eta**s)
        found.append([Rung(cells // eta**i, steps[most - s + i]) for i in range(s + 1)])
    return found


def stages(budgets: tuple[int, ...], eta: int) -> Iterator[Stage]:
    """Yield the rungs of one bracket after another, for ever."""
    for number, bracket in enumerate(cycle(brackets(budgets, eta))):
        for place, rung in enumerate(bracket):
            yield Stage(rung, place == 0, number)


class Halving:
    """Asks for the cells of a stage one after another; a cell that is not in the table is the least fit.

    Attributes:
        propose: number of the query to the next cell of a lowest rung.
        observe: is told cells, fitness and budget of every query.
    """

    def __init__(
        self,
        encoding: Encoding,
        budgets: tuple[int, ...],
        eta: int,
        propose: Callable[[int], Genes],
        observe: Callable[[Genes, np.ndarray, int], None],
    ) -> None:
        if reason := too_few(budgets, eta):
            raise ValueError(f"expected other budgets: {reason}")
        self.encoding, self.propose, self.observe = encoding, propose, observe
        self._stages = stages(budgets, eta)
        self.stage = next(self._stages)
        self.asked = 0
        self.waiting: list[Genes] = []
        self.cells: list[Genes] = []
        self.fitness: list[np.ndarray] = []

    def ask(self) -> Query:
        if len(self.cells) == self.stage.rung.cells:
            self._advance()
        cell = self.propose(self.asked) if self.stage.first else self.waiting[len(self.cells)]
        self.cells.append(cell)
        return Query(self.encoding.scores(cell), self.stage.rung.budget)

    def tell(self, fitness: Float[np.ndarray, " replicas"], _cost_s: Float[np.ndarray, " replicas"], /) -> None:
        self.fitness.append(np.where(np.isnan(fitness), -np.inf, fitness))
        self.observe(self.cells[-1], self.fitness[-1], self.stage.rung.budget)
        self.asked += 1

    def _advance(self) -> None:
        """Go to the next stage, with the fittest cells of this one."""
        self.stage = next(self._stages)
        if not self.stage.first:
            order = np.argsort(-np.stack(self.fitness, 1), axis=1, kind="stable")
            cells, rows = np.stack(self.cells, 1), np.arange(len(order))
            self.waiting = [cells[rows, order[:, place]] for place in range(self.stage.rung.cells)]
        self.cells, self.fitness = [], []
