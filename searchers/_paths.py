"""A network trained through discrete cells, a new one every step, and a cell that some ranking selects.

There are no logits, so λ does not exist. A method is a `PathRecipe`; what it changes is a function of it, never a
branch here. One step, unless the recipe has another:
  1. draw a discrete cell for each replica: parents uniform over combinations, operations uniform, loose ends allowed;
     kept inputs are summed with weight 1, a block the output does not keep is zero in the concatenation.
  2. w: cross-entropy of a training batch through that cell; clip per replica; SGD, cosine rate. What the cell does not
     use does not move.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from searchers._bilevel import weight_step
from searchers._descent import Memory
from searchers._optim import SGD, WeightSettings, cosine, restore
from searchers._ranking import KHot, RankingSettings, as_choices, rank_after, sample_cells
from searchers.base import (
    Batch,
    Choices,
    DataPolicy,
    Logits,
    Resources,
    StepBatches,
    StepLosses,
    Supernet,
    SupernetOptions,
)

REDRAWS = 100


def weights_only(batch_size: int | None) -> DataPolicy:
    """Train weights only, at the method's own batch size; None is the benchmark's."""
    return DataPolicy(val_batches=0, batch_size=lambda _epoch, base: batch_size or base)


@dataclass(frozen=True)
class PathRecipe:
    """What makes a method.

    Attributes:
        no_curvature: why λ is undefined.
        policy: the data a step receives.
        end_epoch: called after every epoch; returns the cell selected as scores, None to leave it as it is.
        cell: the cells of a training step.
        update: moves the weights on a batch and returns the training loss before; None: one step through `cell`.
        memory: what the hooks above remember between steps.
    """

    no_curvature: str
    policy: DataPolicy
    end_epoch: Callable[["Paths", int], Logits | None]
    cell: Callable[["Paths"], KHot] = lambda searcher: searcher.uniform("cell", searcher.steps)
    update: Callable[["Paths", Batch], Float[Tensor, " replicas"]] | None = None
    memory: Memory | None = None


@final
class Paths:
    """Trains the weights of sampled cells; change it by its recipe."""

    hessian_of = None
    shift_invariant: tuple[str, ...] = ()

    def __init__(self, recipe: PathRecipe, weights: WeightSettings, resources: Resources) -> None:
        self.recipe, self.resources = recipe, resources
        self.policy, self.no_curvature = recipe.policy, recipe.no_curvature
        self.supernet: Supernet = resources.build(SupernetOptions())
        self.parameters = dict(self.supernet.named_parameters())
        self.weights = SGD(self.parameters, weights)
        self.steps: int = 0
        self.lr = weights.lr
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
        self.lr = cosine(self.weights.settings, epoch, self.resources.horizon.epochs)

    def step(self, batches: StepBatches) -> StepLosses:
        train = (self.recipe.update or one_path)(self, batches.train[0])
        self.steps += 1
        return StepLosses(train, None)

    def end_epoch(self, epoch: int) -> None:
        found = self.recipe.end_epoch(self, epoch)
        self._selected = self._selected if found is None else found

    def finish(self) -> None:
        """The last epoch's ranking has selected."""

    def uniform(self, name: str, step: int, cells: int = 1) -> KHot:
        """Return a uniform cell a replica, drawn again while it carries no signal."""
        return uniform(self.supernet, self.resources, name, step, cells)

    def choices(self, hot: KHot) -> Choices:
        return as_choices(hot, next(iter(self.parameters.values())))

    def state_dict(self) -> dict[str, Any]:
        return {
            "parameters": {name: value.detach() for name, value in self.parameters.items()},
            "weights": self.weights.state_dict(),
            "steps": self.steps,
            "selected": self._selected,
            "memory": {} if self.recipe.memory is None else self.recipe.memory.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        restore(self.parameters, state["parameters"])
        self.weights.load_state_dict(state["weights"])
        self.steps, self._selected = state["steps"], state["selected"]
        if self.recipe.memory is not None:
            self.recipe.memory.load_state_dict(state["memory"])


def one_path(searcher: Paths, batch: Batch) -> Float[Tensor, " replicas"]:
    """Take one step of SGD through the recipe's cell; return the loss before it."""
    choices = searcher.choices(searcher.recipe.cell(searcher))
    return weight_step(searcher.supernet, searcher.weights, batch, choices, searcher.lr)


def rank_uniform(settings: RankingSettings) -> Callable[[Paths, int], Logits | None]:
    """Return a selection among uniform cells."""

    def select(searcher: Paths, epoch: int) -> Logits | None:
        return rank_after(
            searcher.supernet, searcher.resources, epoch, lambda i: searcher.uniform("candidate", i), settings
        )

    return select


def uniform(network: Supernet, resources: Resources, name: str, step: int, cells: int = 1) -> KHot:
    """Return a uniform cell a replica, drawn again while it carries no signal."""
    streams = resources.stream(name, step)
    return alive(network, lambda replicas: sample_cells(network.groups, [streams[i] for i in replicas], cells))


def alive(network: Supernet, draw: Callable[[Sequence[int]], KHot]) -> KHot:
    """Return what `draw` gives for every replica, drawn again for those whose cell carries no signal.

    Raises:
        RuntimeError: no cell that does was found.
    """
    hot = draw(range(network.replicas))
    for _ in range(REDRAWS):
        dead = np.flatnonzero(~carries(network, hot))
        if not len(dead):
            return hot
        for group, values in draw(dead.tolist()).items():
            hot[group][:, dead] = values
    raise RuntimeError(f"expected a cell that reaches the output within {REDRAWS} draws, got none")


def carries(network: Supernet, hot: KHot) -> Bool[np.ndarray, " replicas"]:
    """Return for each replica whether every cell has an operation or input on a path to its output."""
    live = network.live({name: values > 0 for name, values in hot.items()})
    alive = [values.any((2, 3)) for values in live.values()]
    return np.asarray(np.logical_or.reduce(alive).all(0))
