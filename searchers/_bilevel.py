"""Two-level search, composed of functions: the searcher most methods are built from.

One step, in this order (Liu et al. 2019, DARTS, algorithm 1):
  1. architecture: g = recipe.arch_gradient(...) on a validation batch plus the gradients of recipe.penalties; Adam.
  2. weights: cross-entropy of a training batch under recipe.weight_choices; clip per replica; SGD.
A method is a `Recipe`; what it changes is a function of it, never a branch here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from searchers import _relax
from searchers._descent import Descent, Moment, Penalty, move_weights
from searchers._optim import SGD
from searchers.base import (
    Batch,
    Choices,
    DataPolicy,
    ForwardInputs,
    Logits,
    StepBatches,
    StepLosses,
    Supernet,
    SupernetOptions,
)

__all__ = ["ArchGradient", "Bilevel", "Moment", "Recipe", "first_order", "weight_step"]


class ArchGradient(NamedTuple):
    """Gradient with respect to the logits, and the validation loss at the point where it was taken."""

    gradient: dict[str, Tensor]
    loss: Float[Tensor, " replicas"]


@dataclass(frozen=True)
class Recipe:
    """What makes a method.

    Attributes:
        relax: logits to the mixing weights of the architecture step, and of λ.
        weight_choices: mixing weights of the weight step, from detached logits; perturbations and samples go here.
        weight_inputs: what else the weight step's forward pass receives (drop-path masks).
        arch_gradient: how ∂L_val/∂logits is formed.
        penalties: extra terms of the architecture loss, each "replicas"; their gradient is added.
        select: logits to the scores that are discretised; None discretises the logits.
        shift_invariant: groups whose rows are invariant to a constant (softmax rows).
        hessian_of: the loss λ is the curvature of, for captions.
        warm_up: share of the epochs in which only the weights move: no architecture step, no validation loss.
    """

    relax: Callable[[Logits], Choices] = _relax.softmax
    weight_choices: Callable[["Bilevel", Logits, StepBatches], Choices] | None = None
    weight_inputs: Callable[["Bilevel", StepBatches], ForwardInputs] | None = None
    arch_gradient: Callable[["Bilevel", StepBatches], ArchGradient] | None = None
    penalties: tuple[Penalty, ...] = ()
    select: Callable[[Logits], Logits] | None = None
    shift_invariant: tuple[str, ...] | None = None
    hessian_of: str = "validation cross-entropy through the softmax relaxation"
    warm_up: float = 0.0
    policy: DataPolicy = DataPolicy()
    options: SupernetOptions = SupernetOptions()


def first_order(searcher: "Bilevel", batches: StepBatches) -> ArchGradient:
    """Return ∂L_val(w, α)/∂α with w fixed (Liu et al. 2019, DARTS, section 2.3, ξ = 0)."""
    leaves = searcher.leaves()
    losses = _relax.loss(searcher.supernet, batches.val[0], searcher.recipe.relax(leaves), searcher.frozen())
    gradient = torch.autograd.grad(losses.sum(), list(leaves.values()))
    return ArchGradient(dict(zip(leaves, gradient, strict=True)), losses.detach())


@final
class Bilevel(Descent[Recipe]):
    """Alternates architecture and weight steps; change it by its recipe."""

    def step(self, batches: StepBatches) -> StepLosses:
        val = None if self.moment().progress < self.recipe.warm_up else self._arch_step(batches)
        train = self._weight_step(batches)
        self.steps += 1
        return StepLosses(train, val)

    def _arch_step(self, batches: StepBatches) -> Float[Tensor, " replicas"]:
        form = self.recipe.arch_gradient or first_order
        gradient, losses = form(self, batches)
        self.arch.step(self.penalised(gradient), self.arch.settings.lr)
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
    move_weights(network, optimiser, dict(zip(parameters, gradients, strict=True)), choices, lr)
    return losses.detach()
