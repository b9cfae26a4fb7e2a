"""Selection by perturbation: what a trained network loses without an option decides, not the option's weight.

Source: Wang, Cheng, Chen, Tang, Hsieh (2021), Rethinking Architecture Selection in Differentiable NAS,
https://arxiv.org/abs/2108.04392, section 4 and algorithm 1.

At the start of an epoch in which a decision is due, each replica decides the next row of a random order of its own
(`_projection`): the one option stays without which the accuracy on the validation half is lowest.
One step, in between, at the mixing weights of the search with decided rows one-hot (k-hot where k are kept):
  1. α: ∂L_val/∂α on a validation batch; the search's optimiser of α, with its state and rate. Decided rows stay.
     Left out where the search does not train α.
  2. w: ∂L_train/∂w on a training batch; SGD as in the search, with fresh momentum and the constant rate .0025.
Discretise: the decisions; rows that are not decided yet as in the search. Where the search selects nothing, nothing is
selected before the last decision.

Published schedule on NAS-Bench-201: the first decision after 100 epochs, then one every 5 epochs, the last after 125.
Here decisions are spread evenly like that over the epochs that are left. What is not decided then, the end decides.
Sure: removal without renormalising, one row at a time, rate and fresh SGD. Our reading: accuracies come with batch
statistics, of un-augmented images in a fixed order; where they are equal, the higher loss is worse; rows that keep k of
several lose one option at a time, as inputs do in the paper's space; tuning is that of first-order DARTS whatever
searched, without its samples, perturbations and penalties. Where the search has no logits, the mixture is uniform.
What the search never selects (`none` of Fair DARTS, whose own space lacks it) is not asked about and not decided for;
where the search may select `none`, as DARTS may on NAS-Bench-201, so may the removals.
Accuracies are read on the host: they decide what is computed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from searchers import _relax
from searchers._bilevel import weight_step
from searchers._descent import ArchOptimiser, filled
from searchers._optim import SGD
from searchers._projection import Projection, removals
from searchers._staged import Selection
from searchers.base import Batch, Choices, DataPolicy, Evaluation, Logits, Resources, Searcher, StepBatches, StepLosses
from searchers.entry import FORWARD, Extent, Passes, Published

TIE = 1e-6
"""Less than one image of any half: the loss decides only between equal accuracies."""


@dataclass(frozen=True)
class Settings:
    """The paper's settings.

    Attributes:
        share: of the epochs that search: 100 of 125.
        tune_epochs: epochs from one decision to the next; None spreads them evenly over the epochs that are left.
        lr: rate of the weights while tuning.
        batches: validation batches a removal is scored on; None: the whole half.
        criterion: what gets worse by a removal.
    """

    share: float = 0.8
    tune_epochs: int | None = None
    lr: float = 0.0025
    batches: int | None = None
    criterion: Literal["accuracy", "loss"] = "accuracy"

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.lr <= 0:
            raise ValueError(f"expected a share in (0, 1] and a positive lr, got {self.share} and {self.lr}")
        if min(1 if each is None else each for each in (self.tune_epochs, self.batches)) < 1:
            raise ValueError(
                f"expected tune_epochs and batches of at least 1, got {self.tune_epochs} and {self.batches}"
            )


@runtime_checkable
class Trained(Protocol):
    """A searcher that trains its weights by SGD."""

    @property
    def weights(self) -> SGD: ...


@runtime_checkable
class Tunable(Protocol):
    """A searcher whose logits have an optimiser."""

    @property
    def arch(self) -> ArchOptimiser: ...

    @property
    def arch_lr(self) -> float: ...


@runtime_checkable
class Selective(Protocol):
    """A searcher that never selects some options, by name."""

    @property
    def excluded(self) -> tuple[str, ...]: ...


class Perturbation:
    """Goes on with what has searched: decides its rows and tunes the rest."""

    def __init__(self, settings: Settings, search: Searcher, resources: Resources, epochs: range) -> None:
        if not isinstance(search, Trained):
            raise ValueError(f"expected a search that trains its weights by SGD, got {type(search).__name__}")
        self.settings, self.search, self.resources, self.epochs = settings, search, resources, epochs
        self.supernet, self.shift_invariant = search.supernet, search.shift_invariant
        self.no_curvature = search.no_curvature
        self.hessian_of = None if search.hessian_of is None else f"{search.hessian_of}; decided rows are one-hot"
        own = {group.name for group in resources.groups}
        carried = [group for group in self.supernet.groups if group.name not in own]
        excluded = search.excluded if isinstance(search, Selective) else ()
        streams = resources.stream("projection", 0)
        self.projection = Projection(resources.groups, streams, carried, excluded=excluded)
        self.weights = SGD(search.weights.parameters, replace(search.weights.settings, lr=settings.lr))
        self.weights.weight_decay = search.weights.weight_decay
        self.policy = tuning(search.policy, epochs.start)
        self.tunes = self.policy.val_batches > 0 and bool(search.logits())
        if self.tunes and not isinstance(search, Tunable):
            raise ValueError(f"expected a search whose logits have an optimiser, got {type(search).__name__}")

    def logits(self) -> Logits:
        return self.search.logits()

    def relax(self, logits: Logits) -> Choices:
        return self.projection.frozen.over(self.search.relax(logits))

    def selected(self) -> Logits | None:
        scores = self.search.selected()
        if scores is None:
            if self.projection.made < self.projection.rows:
                return None
            scores = self._zeros()
        return self.projection.frozen.scores(lambda found: found)(scores)

    def diagnostics(self) -> Mapping[str, Tensor]:
        return {}

    def begin_epoch(self, epoch: int) -> None:
        self._decide(self.due(epoch - self.epochs.start))

    def end_epoch(self, epoch: int) -> None:
        """Decisions are made at the start of an epoch."""

    def finish(self) -> None:
        self._decide(self.projection.rows)

    def due(self, tuned: int) -> int:
        """Return how many decisions are due after so many epochs of tuning."""
        rows, every = self.projection.rows, self.settings.tune_epochs
        found = tuned // every if every is not None else tuned * (rows - 1) // len(self.epochs)
        return min(1 + found, rows)

    def step(self, batches: StepBatches) -> StepLosses:
        val = self._arch_step(batches.val[0]) if self.tunes else None
        choices = self.projection.frozen.over(self._open())
        train = weight_step(self.supernet, self.weights, batches.train[0], choices, self.settings.lr)
        return StepLosses(train, val)

    def skip(self) -> None:
        """Steps are not counted."""

    def _arch_step(self, batch: Batch) -> Float[Tensor, " replicas"]:
        """Move the logits of the rows that are open; return the loss before."""
        assert isinstance(self.search, Tunable)
        leaves = {name: value.requires_grad_() for name, value in self.logits().items()}
        weights = self.weights.layout.current(self.weights.parameters)
        losses = _relax.loss(self.supernet, batch, self.relax(leaves), weights)
        values = list(leaves.values())
        # Decisions may leave no path from an open row to the output.
        found = (
            torch.autograd.grad(losses.sum(), values, allow_unused=True)
            if losses.requires_grad
            else [None] * len(values)
        )
        gradient = {name: filled(g, leaf) for (name, leaf), g in zip(leaves.items(), found, strict=True)}
        self.search.arch.step(gradient, self.search.arch_lr, self.projection.frozen.moves(values[0]))
        return losses.detach()

    def _decide(self, count: int) -> None:
        with torch.no_grad():
            while self.projection.made < count:
                self.projection.decide(self._open(), self.score)

    def score(self, choices: Choices) -> Float[Tensor, " replicas"]:
        """Return how good the network is under these choices; lower is worse."""
        batches = None if self.settings.batches is None else range(self.settings.batches)
        found = self.resources.evaluate(self.supernet, choices, "val", batches)
        return -found.loss if self.settings.criterion == "loss" else accuracy_then_loss(found)

    def _open(self) -> Choices:
        """Return the mixing weights of the rows that are open."""
        logits = self.logits()
        return self.search.relax(logits) if logits else _relax.softmax(self._zeros())

    def _zeros(self) -> Logits:
        like = next(iter(self.weights.parameters.values()))
        return _relax.zero_logits(self.resources.groups, self.resources.stream("projection", 0), like)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights.state_dict(), "projection": self.projection.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights.load_state_dict(state["weights"])
        self.projection.load_state_dict(state["projection"])


def tuning(search: DataPolicy, first: int) -> DataPolicy:
    """Return the two halves at the search's last batch size; no validation batch where it trained weights only."""
    trains_arch = search.split == "all" or search.val_batches > 0
    return DataPolicy(
        val_batches=1 if trains_arch else 0, batch_size=lambda _epoch, base: search.batch_size(first - 1, base)
    )


def accuracy_then_loss(found: Evaluation) -> Float[Tensor, " replicas"]:
    """Return the accuracy, less so little of the loss that it decides only between equal accuracies."""
    loss = found.loss.double().nan_to_num(nan=torch.inf, posinf=torch.inf)
    return found.accuracy.double() - TIE * (1 - 1 / (1 + loss))


def evaluated(settings: Settings, extent: Extent) -> tuple[Passes, ...]:
    """Return the cost of all removals."""
    batches = extent.batches if settings.batches is None else settings.batches
    return (Passes(removals(extent.groups) * batches * FORWARD, extent.evaluation),)


SELECTION = Selection(
    "perturbation",
    Settings,
    lambda settings: settings.share,
    Perturbation,
    "Wang et al. (2021), DARTS-PT",
    evaluated,
    Published(125, "the paper on NAS-Bench-201: 100 epochs of search, 25 of selection"),
    steady=True,
)
