"""Single-level search, composed of functions: weights and architecture descend on one loss of one batch.

One step, in this order:
  1. one forward and backward pass on a training batch under recipe.choices; from it ∂L/∂w and ∂L/∂logits.
  2. architecture: that gradient plus the gradients of recipe.penalties; Adam.
  3. weights: clip per replica; SGD.
  4. recipe.after, for methods that move their logits or weights once more.
Both gradients are taken before either update, so the order of 2 and 3 does not show. All images train both: the
validation half has been seen. A method is a `SingleRecipe`; what it changes is a function of it, never a branch here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch

from searchers import _relax
from searchers._descent import ArchOptimiser, Descent, Init, Memory, Penalty, filled, move_weights
from searchers._optim import Adam, ArchSettings, Touched
from searchers.base import Choices, DataPolicy, ForwardInputs, Logits, Native, StepBatches, StepLosses, SupernetOptions

ALL = DataPolicy(split="all", val_batches=0)
"""Every image trains weights and architecture."""

SEEN = "cross-entropy of validation images, which the search has trained on"


@dataclass(frozen=True)
class SingleRecipe:
    """What makes a method.

    Attributes:
        relax: logits to the mixing weights λ is defined on; those of the step, too, unless `choices` says otherwise.
        choices: mixing weights of a step from leaf logits, differentiable; samples and masks go here.
        inputs: what else the forward pass receives.
        penalties: extra terms of the architecture loss, each "replicas"; their gradient is added.
        init: the logits a search starts from.
        optimiser: makes the optimiser of the logits.
        end_epoch: called after every epoch with the searcher and the number of the epoch.
        memory: what the hooks above remember between steps.
        moves: the entries of the logits that move in a step with these choices; None: all.
        after: called when a step has moved weights and logits, with the logits before it and the choices of the step.
        select: logits to the scores that are discretised; None discretises the logits without what is excluded.
        excluded: options that are never selected, by name, whatever decides; `select` itself sees to it.
        shift_invariant: groups whose rows are invariant to a constant (softmax rows); None: all.
        hessian_of: the loss λ is the curvature of, for captions.
        native: the loss of a sample, where the search descends on samples.
    """

    relax: Callable[[Logits], Choices] = _relax.softmax
    choices: Callable[["Single", Logits], Choices] | None = None
    inputs: Callable[["Single", StepBatches], ForwardInputs] | None = None
    penalties: tuple[Penalty, ...] = ()
    init: Init = _relax.normal_logits
    optimiser: Callable[[Logits, ArchSettings], ArchOptimiser] = Adam
    end_epoch: Callable[["Single", int], None] | None = None
    memory: Memory | None = None
    moves: Callable[["Single", Choices], Touched] | None = None
    after: Callable[["Single", Logits, Choices], None] | None = None
    select: Callable[[Logits], Logits] | None = None
    excluded: tuple[str, ...] = ()
    shift_invariant: tuple[str, ...] | None = None
    hessian_of: str = f"{SEEN}, through the softmax relaxation"
    native: Native | None = None
    policy: DataPolicy = ALL
    options: SupernetOptions = SupernetOptions()


@final
class Single(Descent[SingleRecipe]):
    """Moves weights and architecture at once; change it by its recipe."""

    def step(self, batches: StepBatches) -> StepLosses:
        recipe = self.recipe
        before = {name: value.clone() for name, value in self.logits().items()}
        leaves = {name: value.detach().requires_grad_() for name, value in before.items()}
        choices = self.relax(leaves) if recipe.choices is None else recipe.choices(self, leaves)
        inputs = ForwardInputs() if recipe.inputs is None else recipe.inputs(self, batches)
        weights = self.weights.leaf()
        losses = _relax.loss(self.supernet, batches.train[0], choices, weights, inputs)
        *found, by_weights = torch.autograd.grad(losses.sum(), [*leaves.values(), weights], allow_unused=True)
        by_logits = {n: filled(g, leaf) for (n, leaf), g in zip(leaves.items(), found, strict=True)}
        moves = None if recipe.moves is None else recipe.moves(self, choices)
        self.arch.step(self.penalised(by_logits), self.arch_lr, moves)
        move_weights(self.supernet, self.weights, by_weights, choices, self.lr)
        if recipe.after is not None:
            recipe.after(self, before, choices)
        self.steps += 1
        return StepLosses(losses.detach(), None)
