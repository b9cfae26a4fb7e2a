"""Zero-Cost-PT: perturbation selects the cell of a network that has not been trained.

Source: Xiang, Dudziak, Abdelfattah, Chau, Lane, Wen (2023), Zero-Cost Operation Scoring in Differentiable Architecture
Search, https://arxiv.org/abs/2106.06799, section 4 and algorithm 1.

There are no steps and no epochs: `finish` does it all, with all rows mixed evenly until they are decided.
  1. `proposals` times: the rows are decided one after another (`_projection`). A proxy scores the network without each
     option of the row, all on one training batch; what stays is the option without which the score is lowest. A row of
     several drops the one without which the score is highest until as many are left as it keeps.
  2. every proposal, as a discrete cell with the same weights, is scored on the same `validation` further batches.
Discretise: the proposal of the highest mean score, the first of equals; without validation the first proposal.

Scores are read from the device, since they decide what is computed. There are no logits, so λ does not exist. Sure:
untrained, lowest score, 10 proposals, 100 batches, naswot (`jacob` in the source); on NAS-Bench-1Shot1 blocks in a
random order, then inputs, then the output. Our reading: what is removed is not computed, so its ReLUs do not count;
every decision has a batch of its own, from the training half as a search would be served it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from searchers import _projection, _relax
from searchers._optim import restore
from searchers._proxies import PROXIES, Name, scorer
from searchers.base import Batch, Choices, DataPolicy, Logits, Resources, StepBatches, StepLosses, Supernet
from searchers.entry import DISCRETE, Extent, Method, Passes

ORDERS: dict[str, _projection.Order] = {
    "operations_first": _projection.operations_first,
    "random": _projection.at_random,
    "sequential": _projection.in_sequence,
    "reverse": _projection.reverse,
}


@dataclass(frozen=True)
class Settings:
    """The paper's settings on NAS-Bench-201.

    Attributes:
        order: of the decisions; "operations_first" is "random" where there is nothing but operations.
        proposals: cells that are proposed.
        validation: batches on which each of them is scored.
        batch_size: None uses the benchmark's.
    """

    proxy: Name = "naswot"
    order: Literal["operations_first", "random", "sequential", "reverse"] = "operations_first"
    proposals: int = 10
    validation: int = 100
    batch_size: int | None = 256

    def __post_init__(self) -> None:
        if self.proposals < 1 or self.validation < 0:
            raise ValueError(
                "expected at least 1 proposal and no negative number of validation batches, "
                f"got {self.proposals} and {self.validation}"
            )


def policy(settings: Settings) -> DataPolicy:
    """Train nothing; the size is of the batches that are scored."""
    return DataPolicy(train_batches=0, val_batches=0, batch_size=lambda _epoch, base: settings.batch_size or base)


class ZeroCostPT:
    """Proposes cells and keeps the best."""

    hessian_of = None
    no_curvature = "zero-cost perturbation has no architecture logits"
    shift_invariant: tuple[str, ...] = ()

    def __init__(self, settings: Settings, resources: Resources) -> None:
        self.settings, self.resources = settings, resources
        self.policy = policy(settings)
        self.proxy = PROXIES[settings.proxy]
        self.supernet: Supernet = resources.build(self.proxy.options)
        self.parameters = dict(self.supernet.named_parameters())
        self._selected: Logits | None = None

    def logits(self) -> Logits:
        return {}

    def relax(self, logits: Logits) -> Choices:
        raise ValueError(f"expected no call: {self.no_curvature}, got logits of {sorted(logits)}")

    def selected(self) -> Logits | None:
        return self._selected

    def diagnostics(self) -> Mapping[str, Tensor]:
        return {}

    def begin_epoch(self, epoch: int) -> None:
        """Nothing changes from epoch to epoch."""

    def step(self, batches: StepBatches) -> StepLosses:
        raise ValueError(f"expected no steps: nothing is trained, got {len(batches.train)} training batches")

    def end_epoch(self, epoch: int) -> None:
        """Nothing changes from epoch to epoch."""

    def finish(self) -> None:
        batches = self._batches()
        cells = [self.propose(number, batches) for number in range(self.settings.proposals)]
        asked = self.settings.validation if self.proxy.reads_data else min(self.settings.validation, 1)
        best = self.validate(cells, islice(batches, asked))
        replicas = range(self.resources.replicas)
        self._selected = {
            name: torch.stack([cells[best[replica]].weights[name][0, replica] for replica in replicas])
            for name in cells[0].weights
        }

    def propose(self, number: int, batches: Iterator[Batch]) -> Choices:
        """Return a discrete cell of every replica."""
        groups, streams = self.supernet.groups, self.resources.stream("proposal", number)
        projection = _projection.Projection(groups, streams, order=ORDERS[self.settings.order])
        even = _relax.softmax(_relax.zero_logits(groups, streams, next(iter(self.parameters.values()))))
        for _ in range(projection.rows):
            projection.decide(even, scorer(self.proxy, self.supernet, next(batches)))
        return projection.frozen.over(even)

    def validate(self, cells: list[Choices], batches: Iterator[Batch]) -> list[int]:
        """Return the number of each replica's best cell; what cannot be scored is the worst."""
        total = np.zeros((len(cells), self.resources.replicas))
        for batch in batches:
            score = scorer(self.proxy, self.supernet, batch)
            total += np.stack([score(cell).cpu().numpy() for cell in cells])
        return np.argmax(np.where(np.isnan(total), -np.inf, total), axis=0).tolist()

    def _batches(self) -> Iterator[Batch]:
        """Yield training batches, epoch after epoch of a search that reads nothing else; scores are never narrow."""
        reads = replace(self.policy, train_batches=1)
        served = (step.train[0] for epoch in count() for step in self.resources.served(reads, epoch))
        return (batch._replace(images=batch.images.to(self.resources.dtype)) for batch in served)

    def state_dict(self) -> dict[str, Any]:
        parameters = {name: value.detach() for name, value in self.parameters.items()}
        return {"parameters": parameters, "selected": self._selected}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        restore(self.parameters, state["parameters"])
        self._selected = state["selected"]


OBSERVED = 2 / 3
"""A pass without gradients that keeps and compares the signs of all ReLUs, in forward-backward passes; measured."""


def evaluated(settings: Settings, extent: Extent) -> tuple[Passes, ...]:
    """Return the cost of all proposals and of their validation; proxies with gradients take a backward pass."""
    size, proxy = settings.batch_size or extent.batch, PROXIES[settings.proxy]
    batches = settings.validation if proxy.reads_data else min(settings.validation, 1)
    score = OBSERVED if settings.proxy == "naswot" else 1.0
    return (
        Passes(settings.proposals * _projection.removals(extent.groups) * score, size),
        Passes(settings.proposals * batches * score, size, DISCRETE),
    )


METHOD = Method(
    "zero_cost_pt",
    Settings,
    ZeroCostPT,
    "Xiang et al. (2023), Zero-Cost-PT",
    passes_per_step=0.5,
    policy=policy,
    evaluated=evaluated,
    networks=lambda settings: (PROXIES[settings.proxy].options,),
)
