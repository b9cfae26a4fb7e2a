"""Two-level search, composed of functions: the searcher most methods are built from.

One step, in this order (Liu et al. 2019, DARTS, algorithm 1):
  1. architecture: g = recipe.arch_gradient(...) on a validation batch plus the gradients of recipe.penalties; Adam.
  2. weights: cross-entropy of a training batch under recipe.weight_choices; clip per replica; SGD.
A method is a `Recipe`; what it changes is a function of it, never a branch here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from searchers import _relax
from searchers._optim import SGD, Adam, ArchSettings, WeightSettings, cosine, restore, touched
from searchers.base import (
    Batch,
    Choices,
    DataPolicy,
    ForwardInputs,
    Logits,
    Resources,
    StepBatches,
    StepLosses,
    Supernet,
    SupernetOptions,
)


class ArchGradient(NamedTuple):
    """Gradient with respect to the logits, and the validation loss at the point where it was taken."""

    gradient: dict[str, Tensor]
    loss: Float[Tensor, " replicas"]


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


@dataclass(frozen=True)
class Recipe:
    """What makes a method.

    Attributes:
        relax: logits to the mixing weights of the architecture step, and of λ.
        weight_choices: mixing weights of the weight step, from detached logits; perturbations and samples go here.
        weight_inputs: what else the weight step's forward pass receives (drop-path masks).
        arch_gradient: how ∂L_val/∂logits is formed.
        penalties: extra terms of the architecture loss, each "replicas"; their gradient is added.
        shift_invariant: groups whose rows are invariant to a constant (softmax rows).
        hessian_of: the loss λ is the curvature of, for captions.
    """

    relax: Callable[[Logits], Choices] = _relax.softmax
    weight_choices: Callable[["Bilevel", Logits, StepBatches], Choices] | None = None
    weight_inputs: Callable[["Bilevel", StepBatches], ForwardInputs] | None = None
    arch_gradient: Callable[["Bilevel", StepBatches], ArchGradient] | None = None
    penalties: tuple[Callable[[Logits, Moment], Float[Tensor, " replicas"]], ...] = ()
    shift_invariant: tuple[str, ...] | None = None
    hessian_of: str = "validation cross-entropy through the softmax relaxation"
    policy: DataPolicy = DataPolicy()
    options: SupernetOptions = SupernetOptions()


def first_order(searcher: "Bilevel", batches: StepBatches) -> ArchGradient:
    """Return ∂L_val(w, α)/∂α with w fixed (Liu et al. 2019, DARTS, section 2.3, ξ = 0)."""
    leaves = searcher.leaves()
    losses = _relax.loss(searcher.supernet, batches.val[0], searcher.recipe.relax(leaves), searcher.frozen())
    gradient = torch.autograd.grad(losses.sum(), list(leaves.values()))
    return ArchGradient(dict(zip(leaves, gradient, strict=True)), losses.detach())


class Bilevel:
    """Alternates architecture and weight steps; final: change it by its recipe."""

    no_curvature = None

    def __init__(self, recipe: Recipe, weights: WeightSettings, arch: ArchSettings, resources: Resources) -> None:
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

    def logits(self) -> Logits:
        return {name: value.detach() for name, value in self._logits.items()}

    def relax(self, logits: Logits) -> Choices:
        return self.recipe.relax(logits)

    def selected(self) -> Logits | None:
        return self.logits()

    def begin_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.lr = cosine(self.weights.settings, epoch, self.resources.horizon.epochs)

    def end_epoch(self, epoch: int) -> None:
        """Nothing to do between epochs."""

    def finish(self) -> None:
        """Nothing to select: the logits decide."""

    def step(self, batches: StepBatches) -> StepLosses:
        val = self._arch_step(batches)
        train = self._weight_step(batches)
        self.steps += 1
        return StepLosses(train, val)

    def moment(self) -> Moment:
        return Moment(self.epoch, self.steps, self.resources)

    def leaves(self) -> Logits:
        """Return the logits as leaves to differentiate by."""
        return {name: value.requires_grad_() for name, value in self.logits().items()}

    def frozen(self) -> dict[str, Tensor]:
        """Return the weights detached, so that no gradient is formed for them."""
        return {name: value.detach() for name, value in self.parameters.items()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "parameters": {name: value.detach() for name, value in self.parameters.items()},
            "logits": self.logits(),
            "weights": self.weights.state_dict(),
            "arch": self.arch.state_dict(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        restore(self.parameters, state["parameters"])
        restore(self._logits, state["logits"])
        self.weights.load_state_dict(state["weights"])
        self.arch.load_state_dict(state["arch"])
        self.steps = state["steps"]

    def _arch_step(self, batches: StepBatches) -> Float[Tensor, " replicas"]:
        form = self.recipe.arch_gradient or first_order
        gradient, losses = form(self, batches)
        for penalty in self.recipe.penalties:
            leaves = self.leaves()
            extra = torch.autograd.grad(penalty(leaves, self.moment()).sum(), list(leaves.values()))
            gradient = {name: gradient[name] + term for name, term in zip(leaves, extra, strict=True)}
        self.arch.step(gradient, self.arch.settings.lr)
        return losses

    def _weight_step(self, batches: StepBatches) -> Float[Tensor, " replicas"]:
        choose, add = self.recipe.weight_choices, self.recipe.weight_inputs
        choices = self.recipe.relax(self.logits()) if choose is None else choose(self, self.logits(), batches)
        inputs = ForwardInputs() if add is None else add(self, batches)
        return weight_step(self.supernet, self.weights, batches.train[0], choices, self.lr, inputs)


def weight_step(
    network: Supernet,
    optimiser: SGD,
    batch: Batch,
    choices: Choices,
    lr: float,
    inputs: ForwardInputs = ForwardInputs(),
) -> Float[Tensor, " replicas"]:
    """Take one SGD step on the weights that the choices use; return the loss before it."""
    parameters = optimiser.parameters
    losses = _relax.loss(network, batch, choices, inputs=inputs)
    gradients = torch.autograd.grad(losses.sum(), list(parameters.values()), allow_unused=True)
    used = None if choices.active is None else touched(network, choices, list(parameters))
    optimiser.step(dict(zip(parameters, gradients, strict=True)), lr, used)
    return losses.detach()
