"""What two-level and single-level search share: a network, its logits, and an optimiser of each.

`Descent` is abstract: `_bilevel` and `_single` say what one step is. A method is a recipe of functions either way.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from searchers import _relax
from searchers._optim import SGD, Adam, ArchSettings, WeightSettings, cosine, restore, touched
from searchers.base import (
    Choices,
    DataPolicy,
    Logits,
    Resources,
    StepBatches,
    StepLosses,
    Supernet,
    SupernetOptions,
)


@dataclass(frozen=True)
class Moment:
    """Where in the search a step is, and what it may draw from."""

    epoch: int
    step: int
    resources: Resources

    @property
    def progress(self) -> float:
        """Share of the epochs that have passed, in [0, 1)."""
        return self.epoch / self.resources.horizon.epochs


Relax = Callable[[Logits], Choices]
Penalty = Callable[[Logits, Moment], Float[Tensor, " replicas"]]


@runtime_checkable
class CommonRecipe(Protocol):
    """What recipes of both levels say; the meaning of each field stands in `_bilevel.Recipe`."""

    @property
    def relax(self) -> Relax: ...

    @property
    def penalties(self) -> tuple[Penalty, ...]: ...

    @property
    def select(self) -> Callable[[Logits], Logits] | None: ...

    @property
    def shift_invariant(self) -> tuple[str, ...] | None: ...

    @property
    def hessian_of(self) -> str: ...

    @property
    def policy(self) -> DataPolicy: ...

    @property
    def options(self) -> SupernetOptions: ...


R = TypeVar("R", bound=CommonRecipe)


class Descent(ABC, Generic[R]):
    """Descends on weights and logits; what a step is, subclasses say."""

    no_curvature = None

    def __init__(self, recipe: R, weights: WeightSettings, arch: ArchSettings, resources: Resources) -> None:
        self.recipe, self.resources = recipe, resources
        self.policy, self.hessian_of = recipe.policy, recipe.hessian_of
        self.supernet: Supernet = resources.build(recipe.options)
        groups = self.supernet.groups
        every = tuple(group.name for group in groups)
        self.shift_invariant = every if recipe.shift_invariant is None else recipe.shift_invariant
        self.parameters = dict(self.supernet.named_parameters())
        like = next(iter(self.parameters.values()))
        self._logits = _relax.normal_logits(groups, resources.stream("logits", 0), like)
        self.weights, self.arch = SGD(self.parameters, weights), Adam(self._logits, arch)
        self.epoch, self.steps, self.lr = 0, 0, weights.lr

    @abstractmethod
    def step(self, batches: StepBatches) -> StepLosses: ...

    def logits(self) -> Logits:
        return {name: value.detach() for name, value in self._logits.items()}

    def relax(self, logits: Logits) -> Choices:
        return self.recipe.relax(logits)

    def selected(self) -> Logits | None:
        return self.logits() if self.recipe.select is None else self.recipe.select(self.logits())

    def begin_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.lr = cosine(self.weights.settings, epoch, self.resources.horizon.epochs)

    def end_epoch(self, epoch: int) -> None:
        """Nothing to do between epochs."""

    def finish(self) -> None:
        """Nothing to select: the logits decide."""

    def moment(self) -> Moment:
        return Moment(self.epoch, self.steps, self.resources)

    def leaves(self) -> Logits:
        """Return the logits as leaves to differentiate by."""
        return {name: value.requires_grad_() for name, value in self.logits().items()}

    def frozen(self) -> dict[str, Tensor]:
        """Return the weights detached, so that no gradient is formed for them."""
        return {name: value.detach() for name, value in self.parameters.items()}

    def penalised(self, gradient: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the gradient by the logits with those of the recipe's penalties added."""
        total = dict(gradient)
        for penalty in self.recipe.penalties:
            leaves = self.leaves()
            value = penalty(leaves, self.moment()).sum()
            extra = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
            total |= {n: total[n] + term for n, term in zip(leaves, extra, strict=True) if term is not None}
        return total

    def state_dict(self) -> dict[str, Any]:
        return {
            "parameters": self.frozen(),
            "logits": self.logits(),
            "weights": self.weights.state_dict(),
            "arch": self.arch.state_dict(),
            "steps": self.steps,
            "epoch": self.epoch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        restore(self.parameters, state["parameters"])
        restore(self._logits, state["logits"])
        self.weights.load_state_dict(state["weights"])
        self.arch.load_state_dict(state["arch"])
        self.steps, self.epoch = state["steps"], state["epoch"]


def move_weights(
    network: Supernet, optimiser: SGD, gradients: Mapping[str, Tensor | None], choices: Choices, lr: float
) -> None:
    """Take one SGD step on the weights that the choices use."""
    used = None if choices.active is None else touched(network, choices, list(optimiser.parameters))
    optimiser.step(gradients, lr, used)
