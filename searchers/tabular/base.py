"""The contract between table-only methods and the experiment: they ask for cells and are told what those are worth."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from searchers.base import Group


class Query(NamedTuple):
    """The next cell of every repetition, at one budget.

    Attributes:
        scores: the highest-scoring options of each decision are kept; one-hot and k-hot scores are the cell itself.
        budget: training epochs; the same for all repetitions, because schedules depend on the query's number only.
    """

    scores: Mapping[str, Float[np.ndarray, "replicas decisions options"]]
    budget: int


@runtime_checkable
class TableResources(Protocol):
    """What the loop lends a table-only method.

    Attributes:
        replicas: repetitions searched as one: hundreds of them cost one method little more than one.
        budgets: training epochs that may be asked for, ascending.
    """

    @property
    def groups(self) -> tuple[Group, ...]: ...

    @property
    def replicas(self) -> int: ...

    @property
    def budgets(self) -> tuple[int, ...]: ...

    def uniform(self, name: str, step: int, size: int) -> Float[np.ndarray, "replicas size"]:
        """Return numbers in [0, 1), for each repetition a pure function of (seed, name, step, size)."""
        ...


@runtime_checkable
class TableSearcher(Protocol):
    """A table-only method: it never sees the table, only the fitness of what it asked for.

    It searches all repetitions in step. Nothing of it is checkpointed: a search takes seconds.
    """

    def ask(self) -> Query: ...

    def tell(self, fitness: Float[np.ndarray, " replicas"], cost_s: Float[np.ndarray, " replicas"], /) -> None:
        """Receive validation accuracies (fractions; NaN: not in the table) and simulated seconds of the last query."""
        ...
