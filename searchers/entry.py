"""Registry entries: what the experiment knows of a method before anything of it is built."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from searchers.base import DataPolicy, Group, Resources, Searcher, SupernetOptions
from searchers.tabular.base import TableResources, TableSearcher


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

    @property
    def batches(self) -> float:
        """Evaluation batches of the validation half."""
        return self.half / self.evaluation


class Passes(NamedTuple):
    """Passes over batches of one size, for estimates.

    Attributes:
        number: in forward-backward passes of the mixture, of as many calls.
        images: of a batch; what a pass costs is not proportional to them.
        work: share of the mixture's arithmetic that such a pass does.
    """

    number: float
    images: int
    work: float = 1.0


FORWARD = 0.4
"""What a pass without gradients costs, in forward-backward passes; measured on a CPU: .36 to .38, of cells .46."""
DISCRETE = 0.75
"""Arithmetic of a discrete cell's pass in that of the mixture: half of it alone, .85 of it in a stack of two, whose
cells keep different options; its calls are nearly as many."""


@dataclass(frozen=True)
class Method:
    """A registry entry.

    Attributes:
        settings: frozen dataclass of the method's settings with the paper's defaults.
        build: (settings, resources) to a searcher.
        source: authors (year), title, as printed in reports.
        passes_per_step: cost of a step in forward-backward passes of the mixture on one batch; used by estimates only.
        policy: settings to the data policy, the same as the searcher's.
        evaluated: what all of a search computes outside of its steps, at most, to rank or to remove; used by estimates
            only.
        published: None where no publication is known to state the horizon.
        search: the method that searches first, where this one is a search and a selection; its settings are the field
            `search` of this one's.
        networks: settings to what is built into the networks that the searcher asks for, but for groups that they
            only carry; every network is tried before anything is searched.
        steady: whether its searcher is `Steady`: not where samples decide what is left out, nor where a step reads what
            is on the device.
        probes: whether the method measures λ itself, on the same images as the records.
    """

    name: str
    settings: type
    build: Callable[[Any, Resources], Searcher]
    source: str
    passes_per_step: float
    policy: Callable[[Any], DataPolicy] = lambda _settings: DataPolicy()
    evaluated: Callable[[Any, Extent], tuple[Passes, ...]] = lambda _settings, _extent: ()
    published: Published | None = None
    search: "Method | None" = None
    networks: Callable[[Any], tuple[SupernetOptions, ...]] = lambda _settings: (SupernetOptions(),)
    steady: bool = False
    probes: bool = False


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
