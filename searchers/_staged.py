"""Search, then select: a method made of any search and of a selection that goes on with its network.

The budget is one: a share of the epochs searches, the rest selects. The search sees a shorter horizon and nothing else
of it: it draws what it would draw alone, so until then it is that method at that horizon, to the bit (but for cutout
whose probability a benchmark ramps over the whole budget). Its `finish` is called when the selection takes over.

A selection is a searcher that starts from one that has searched: it moves the same network and logits, and decides
rows in `begin_epoch` and `finish`. Checkpoints hold the state of both.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, make_dataclass, replace
from typing import Any, final

import torch

from searchers._acting import Acting
from searchers.base import (
    Batch,
    Choices,
    DataPolicy,
    Evaluation,
    Group,
    Horizon,
    Native,
    Resources,
    Sampling,
    Searcher,
    StepBatches,
    Supernet,
    SupernetOptions,
)
from searchers.entry import Extent, Method, Passes, Published


@dataclass(frozen=True)
class Selection:
    """What follows a search.

    Attributes:
        settings: frozen dataclass of the selection's settings.
        share: settings to the share of the epochs that search.
        build: (settings, what has searched, resources, the epochs that are left) to what selects.
        source: authors (year), title, as printed in reports.
        evaluated: as of a method (`entry.Method`), by the selection alone.
        published: the horizon of search and selection together, whatever searches.
        steady: as of a method.
    """

    name: str
    settings: type
    share: Callable[[Any], float]
    build: Callable[[Any, Searcher, Resources, range], Searcher]
    source: str
    evaluated: Callable[[Any, Extent], tuple[Passes, ...]]
    published: Published | None
    steady: bool = False


@functools.cache
def staged(name: str, method: Method, selection: Selection) -> Method:
    """Return the method that searches and then selects; its settings are `search` and `select`, those of the two."""
    parts = (("search", method.settings), ("select", selection.settings))
    settings = make_dataclass(
        "Settings", [(part, kind, field(default_factory=kind)) for part, kind in parts], frozen=True
    )

    def build(settings: Any, resources: Resources) -> Staged:
        epochs = resources.horizon.epochs
        first = searching(selection.share(settings.select), epochs)
        search = method.build(settings.search, Shorter(resources, Horizon(first)))
        searcher = Staged(
            search, lambda: selection.build(settings.select, search, resources, range(first, epochs)), first
        )
        searcher.select()  # what cannot follow this search says so before anything is trained
        return searcher

    def policy(settings: Any) -> DataPolicy:
        return method.policy(settings.search)

    def evaluated(settings: Any, extent: Extent) -> tuple[Passes, ...]:
        search = replace(extent, epochs=searching(selection.share(settings.select), extent.epochs))
        return (*method.evaluated(settings.search, search), *selection.evaluated(settings.select, extent))

    source = f"{method.source}; {selection.source}"
    passes = method.passes_per_step
    networks = method.networks
    return Method(
        name, settings, build, source, passes, policy, evaluated, selection.published, method,
        lambda settings: networks(settings.search), method.steady and selection.steady, method.probes,
    )  # fmt: skip


def searching(share: float, epochs: int) -> int:
    """Return how many of the epochs search: at least one, and one less than all if any is to select.

    Raises:
        ValueError: the share is not one.
    """
    if not 0 < share <= 1:
        raise ValueError(f"expected a share of the epochs in (0, 1], got {share}")
    return epochs if share == 1 else max(1, min(round(share * epochs), epochs - 1))


@dataclass(frozen=True)
class Shorter:
    """The same resources over other epochs."""

    resources: Resources
    horizon: Horizon

    @property
    def groups(self) -> tuple[Group, ...]:
        return self.resources.groups

    @property
    def replicas(self) -> int:
        return self.resources.replicas

    @property
    def device(self) -> torch.device:
        return self.resources.device

    @property
    def dtype(self) -> torch.dtype:
        return self.resources.dtype

    @property
    def curvature_replicas(self) -> int | None:
        return self.resources.curvature_replicas

    def build(self, options: SupernetOptions) -> Supernet:
        return self.resources.build(options)

    def evaluate(self, network: Supernet, choices: Choices, split: str, batches: range | None) -> Evaluation:
        return self.resources.evaluate(network, choices, split, batches)

    def served(self, policy: DataPolicy, epoch: int) -> Iterator[StepBatches]:
        return self.resources.served(policy, epoch)

    def probe(self) -> Batch:
        return self.resources.probe()

    def stream(self, name: str, step: int) -> tuple[torch.Generator, ...]:
        return self.resources.stream(name, step)


@final
class Staged(Acting[Searcher]):
    """A search, and from epoch `first` on a selection."""

    def __init__(self, search: Searcher, select: Callable[[], Searcher], first: int) -> None:
        self.search, self.select, self.first = search, select, first
        self.selection: Searcher | None = None

    @property
    def stage(self) -> Searcher:
        return self.search if self.selection is None else self.selection

    @property
    def native(self) -> Native | None:
        return self.stage.native if isinstance(self.stage, Sampling) else None

    def begin_epoch(self, epoch: int) -> None:
        if epoch >= self.first:
            self._hand_over()
        self.stage.begin_epoch(epoch)

    def end_epoch(self, epoch: int) -> None:
        self.stage.end_epoch(epoch)

    def finish(self) -> None:
        self._hand_over()
        self.stage.finish()

    def _hand_over(self) -> None:
        if self.selection is None:
            self.search.finish()
            self.selection = self.select()

    def state_dict(self) -> dict[str, Any]:
        return {
            "search": self.search.state_dict(),
            "select": None if self.selection is None else self.selection.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.search.load_state_dict(state["search"])
        self.selection = None
        if state["select"] is not None:
            self.selection = self.select()
            self.selection.load_state_dict(state["select"])
