"""What two-level and single-level search share: a network, its logits, and an optimiser of each.

`Descent` is abstract: `_bilevel` and `_single` say what one step is. A method is a recipe of functions either way.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from searchers import _relax
from searchers._exclude import select_without
from searchers._hosted import Streams
from searchers._optim import SGD, ArchSettings, Gradients, Rate, Touched, WeightSettings, cosine, restore
from searchers._touched import touched
from searchers.base import (
    Batch,
    Choices,
    DataPolicy,
    Flat,
    ForwardInputs,
    Group,
    Logits,
    Native,
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
Init = Callable[[Sequence[Group], Sequence[torch.Generator], Tensor], Logits]
"""Groups, one stream a replica, and a tensor of the wanted type and place, to the logits a search starts from."""


@runtime_checkable
class ArchOptimiser(Protocol):
    """Moves the logits it was made for."""

    def step(self, gradients: Gradients, lr: Rate, moves: Touched = None) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class Memory(Protocol):
    """What a method remembers between steps besides weights, logits and optimisers; saved with the searcher."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class CommonRecipe(Protocol):
    """What recipes of both levels say; the meaning of each field stands in `_bilevel.Recipe`."""

    @property
    def relax(self) -> Relax: ...

    @property
    def init(self) -> Init: ...

    @property
    def optimiser(self) -> Callable[[Logits, ArchSettings], ArchOptimiser]: ...

    @property
    def penalties(self) -> tuple[Penalty, ...]: ...

    @property
    def end_epoch(self) -> Callable[[Any, int], None] | None: ...

    @property
    def memory(self) -> Memory | None: ...

    @property
    def select(self) -> Callable[[Logits], Logits | None] | None: ...

    @property
    def excluded(self) -> tuple[str, ...]: ...

    @property
    def shift_invariant(self) -> tuple[str, ...] | None: ...

    @property
    def hessian_of(self) -> str: ...

    @property
    def native(self) -> Native | None: ...

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
        self._logits = recipe.init(groups, resources.stream("logits", 0), like)
        self.weights, self.arch = SGD(self.parameters, weights), recipe.optimiser(self._logits, arch)
        self.arch_lr = arch.lr
        self.epoch, self.steps, self.lr = 0, 0, weights.lr

    @abstractmethod
    def step(self, batches: StepBatches) -> StepLosses: ...

    def skip(self) -> None:
        self.steps += 1

    def logits(self) -> Logits:
        return {name: value.detach() for name, value in self._logits.items()}

    def assign(self, logits: Logits) -> None:
        """Replace the logits; their optimiser keeps its state."""
        restore(self._logits, logits)

    def relax(self, logits: Logits) -> Choices:
        return self.recipe.relax(logits)

    @property
    def native(self) -> Native | None:
        """Return the loss it descends on where that is random."""
        return self.recipe.native

    @property
    def excluded(self) -> tuple[str, ...]:
        """Return the options that are never selected, by name."""
        return self.recipe.excluded

    def selected(self) -> Logits | None:
        if self.recipe.select is not None:
            return self.recipe.select(self.logits())
        return select_without(self.supernet.groups, *self.excluded)(self.logits())

    def diagnostics(self) -> Mapping[str, Tensor]:
        return {}

    def begin_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.lr = cosine(self.weights.settings, epoch, self.resources.horizon.epochs)

    def end_epoch(self, epoch: int) -> None:
        if self.recipe.end_epoch is not None:
            self.recipe.end_epoch(self, epoch)

    def finish(self) -> None:
        """Nothing to select: the logits decide."""

    def moment(self) -> Moment:
        return Moment(self.epoch, self.steps, self.resources)

    def streams(self, name: str) -> Streams:
        """Return what gives the streams of this name of the step that is next."""
        return lambda: self.resources.stream(name, self.steps)

    def leaves(self) -> Logits:
        """Return the logits as leaves to differentiate by."""
        return {name: value.requires_grad_() for name, value in self.logits().items()}

    def loss_by_logits(
        self, batch: Batch, choices: Choices, inputs: ForwardInputs = ForwardInputs()
    ) -> Float[Tensor, " replicas"]:
        """Return the loss of each replica as a function of the choices; no gradient of the weights is formed."""
        return _relax.loss(self.supernet, batch, choices, self.fixed(), inputs)

    def fixed(self) -> Flat:
        """Return the weights side by side, so that no gradient of them is formed; they move when a step moves them."""
        return self.weights.layout.current(self.parameters)

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
            "memory": {} if self.recipe.memory is None else self.recipe.memory.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        restore(self.parameters, state["parameters"])
        restore(self._logits, state["logits"])
        self.weights.load_state_dict(state["weights"])
        self.arch.load_state_dict(state["arch"])
        self.steps, self.epoch = state["steps"], state["epoch"]
        if self.recipe.memory is not None:
            self.recipe.memory.load_state_dict(state["memory"])


def filled(gradient: Tensor | None, leaf: Tensor) -> Tensor:
    """Return zeros where the loss does not depend on a leaf, because what it weighs was left out."""
    return torch.zeros_like(leaf) if gradient is None else gradient


def move_weights(network: Supernet, optimiser: SGD, gradients: Flat, choices: Choices, lr: float) -> None:
    """Take one SGD step on the weights that the choices use."""
    used = None if choices.active is None else touched(network, choices, list(optimiser.parameters))
    optimiser.step(gradients, lr, used)
