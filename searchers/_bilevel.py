"""Two-level search, composed of functions: the searcher most methods are built from.

One step, in this order (Liu et al. 2019, DARTS, algorithm 1):
  1. architecture: g = recipe.arch_gradient(...) on a validation batch plus the gradients of recipe.penalties; Adam.
  2. weights: cross-entropy of a training batch under recipe.weight_choices; clip per replica; SGD.
A method is a `Recipe`; what it changes is a function of it, never a branch here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from searchers import _relax
from searchers._descent import ArchOptimiser, Descent, Init, Memory, Moment, Penalty, filled, move_weights
from searchers._optim import SGD, Adam, ArchSettings, Layout, Touched, clip
from searchers.base import (
    Batch,
    Choices,
    DataPolicy,
    ForwardInputs,
    Logits,
    Native,
    StepBatches,
    StepLosses,
    Supernet,
    SupernetOptions,
)

__all__ = ["ArchGradient", "Bilevel", "Moment", "Recipe", "clipped", "first_order", "weight_step"]


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
        init: the logits a search starts from.
        optimiser: makes the optimiser of the logits.
        arch_moves: which logits may move, "replicas size" in the order of the groups; None: all.
        weight_update: moves the weights and returns the training loss before; None: one step of SGD.
        order: the two levels of a step.
        end_epoch: called after every epoch with the searcher and the number of the epoch.
        memory: what the hooks above remember between steps.
        select: logits to the scores that are discretised, None before anything is selected; without it, the logits
            without what is excluded.
        excluded: options that are never selected, by name, whatever decides; `select` itself sees to it.
        shift_invariant: groups whose rows are invariant to a constant (softmax rows).
        hessian_of: the loss λ is the curvature of, for captions.
        native: the loss of a sample, where the search descends on samples.
        diagnostics: numbers of the last epoch for the records.
        warm_up: share of the epochs in which only the weights move: no architecture step, no validation loss.
    """

    relax: Callable[[Logits], Choices] = _relax.softmax
    weight_choices: Callable[["Bilevel", Logits, StepBatches], Choices] | None = None
    weight_inputs: Callable[["Bilevel", StepBatches], ForwardInputs] | None = None
    arch_gradient: Callable[["Bilevel", StepBatches], ArchGradient] | None = None
    penalties: tuple[Penalty, ...] = ()
    init: Init = _relax.normal_logits
    optimiser: Callable[[Logits, ArchSettings], ArchOptimiser] = Adam
    arch_moves: Callable[["Bilevel"], Touched] | None = None
    weight_update: Callable[["Bilevel", StepBatches], Float[Tensor, " replicas"]] | None = None
    order: Callable[["Bilevel", StepBatches], StepLosses] | None = None
    end_epoch: Callable[["Bilevel", int], None] | None = None
    memory: Memory | None = None
    select: Callable[[Logits], Logits | None] | None = None
    excluded: tuple[str, ...] = ()
    shift_invariant: tuple[str, ...] | None = None
    hessian_of: str = "validation cross-entropy through the softmax relaxation"
    native: Native | None = None
    diagnostics: Callable[[], Mapping[str, Tensor]] | None = None
    warm_up: float = 0.0
    policy: DataPolicy = DataPolicy()
    options: SupernetOptions = SupernetOptions()


def arch_first(searcher: "Bilevel", batches: StepBatches) -> StepLosses:
    """Move the architecture, then the weights: the order of a step unless a recipe says otherwise."""
    val = searcher.arch_step(batches)
    return StepLosses(searcher.weight_step(batches), val)


def weights_first(searcher: "Bilevel", batches: StepBatches) -> StepLosses:
    """Move the weights, then the architecture."""
    train = searcher.weight_step(batches)
    return StepLosses(train, searcher.arch_step(batches))


def first_order(searcher: "Bilevel", batches: StepBatches, inputs: ForwardInputs = ForwardInputs()) -> ArchGradient:
    """Return ∂L_val(w, α)/∂α with w fixed (Liu et al. 2019, DARTS, section 2.3, ξ = 0)."""
    leaves = searcher.leaves()
    losses = searcher.loss_by_logits(batches.val[0], searcher.recipe.relax(leaves), inputs)
    return by_logits(losses, leaves)


def by_logits(losses: Float[Tensor, " replicas"], leaves: Logits) -> ArchGradient:
    """Return the gradient of the losses; zero where a cell without a path does not depend on the logits."""
    found: Sequence[Tensor | None] = [None] * len(leaves)
    if losses.requires_grad:
        found = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
    gradient = {name: filled(g, leaf) for (name, leaf), g in zip(leaves.items(), found, strict=True)}
    return ArchGradient(gradient, losses.detach())


def clipped(found: ArchGradient, bound: float | None) -> ArchGradient:
    """Return the gradient with a norm of at most `bound` over all logits of a replica; None: as it is."""
    layout = Layout(found.gradient)
    return found._replace(gradient=layout.split(clip(layout.flatten(found.gradient), bound)))


@final
class Bilevel(Descent[Recipe]):
    """Alternates architecture and weight steps; change it by its recipe."""

    def step(self, batches: StepBatches) -> StepLosses:
        losses = (self.recipe.order or arch_first)(self, batches)
        self.steps += 1
        return losses

    def diagnostics(self) -> Mapping[str, Tensor]:
        return {} if self.recipe.diagnostics is None else self.recipe.diagnostics()

    def arch_step(self, batches: StepBatches) -> Float[Tensor, " replicas"] | None:
        """Move the logits; return the validation loss, None in the warm-up."""
        if self.moment().progress < self.recipe.warm_up:
            return None
        form, moves = self.recipe.arch_gradient or first_order, self.recipe.arch_moves
        gradient, losses = form(self, batches)
        self.arch.step(self.penalised(gradient), self.arch_lr, None if moves is None else moves(self))
        return losses

    def weight_step(self, batches: StepBatches) -> Float[Tensor, " replicas"]:
        """Move the weights; return the training loss before."""
        if self.recipe.weight_update is not None:
            return self.recipe.weight_update(self, batches)
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
    losses, gradient = _relax.by_weights(network, batch, choices, optimiser.leaf(), inputs)
    move_weights(network, optimiser, gradient, choices, lr)
    return losses
