"""Registry entries: what the experiment knows of a method before anything of it is built."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from searchers.base import DataPolicy, Group, Resources, Searcher, SupernetOptions, TableResources, TableSearcher


@dataclass(frozen=True)
class Published:
    """The horizon a method was published with.

    Attributes:
        epochs: of the whole search, selection included.
        where: whose settings they are part of, for those who read a plan.
    """

    epochs: int
    where: str


@dataclass(frozen=True)
class Extent:
    """How large a search is, for estimates.

    Attributes:
        half, evaluation, batch: images of the validation half, of an evaluation batch, of the benchmark's batch.
    """

    groups: tuple[Group, ...]
    epochs: int
    half: int
    evaluation: int
    batch: int


FORWARD = 1 / 3
"""What a pass without gradients costs, in forward-backward passes."""


@dataclass(frozen=True)
class Method:
    """A registry entry.

    Attributes:
        settings: frozen dataclass of the method's settings with the paper's defaults.
        build: (settings, resources) to a searcher.
        source: authors (year), title, as printed in reports.
        passes_per_step: cost of a step in forward-backward passes of the mixture on one batch; used by estimates only.
        policy: settings to the data policy, the same as the searcher's.
        evaluated: what all of a search reads outside of its steps, at most, to rank or to remove: images, each times
            the cost of its pass in forward-backward passes of the mixture; used by estimates only.
        published: None where no publication is known to state the horizon.
        search: the method that searches first, where this one is a search and a selection; its settings are the field
            `search` of this one's.
        networks: settings to what is built into the networks that the searcher asks for, but for groups that they
            only carry; every network is tried before anything is searched.
    """

    name: str
    settings: type
    build: Callable[[Any, Resources], Searcher]
    source: str
    passes_per_step: float
    policy: Callable[[Any], DataPolicy] = lambda _settings: DataPolicy()
    evaluated: Callable[[Any, Extent], float] = lambda _settings, _extent: 0.0
    published: Published | None = None
    search: "Method | None" = None
    networks: Callable[[Any], tuple[SupernetOptions, ...]] = lambda _settings: (SupernetOptions(),)


@dataclass(frozen=True)
class TableMethod:
    """A registry entry of a table-only method.

    Attributes:
        settings: frozen dataclass of the method's settings.
        build: (settings, resources) to a searcher.
        source: authors (year), title, as printed in reports.
        repetitions: seeds searched unless told otherwise.
        budgets: true: the method asks for several training budgets; false: for one.
        unfit: (settings, budgets) to why the method cannot search, None where it can.
    """

    name: str
    settings: type
    build: Callable[[Any, TableResources], TableSearcher]
    source: str
    repetitions: int = 500
    budgets: bool = False
    unfit: Callable[[Any, tuple[int, ...]], str | None] = lambda _settings, _budgets: None
