"""DARTS, second order: the architecture gradient looks one weight step ahead.

Source: Liu, Simonyan, Yang (2019), DARTS: Differentiable Architecture Search, https://arxiv.org/abs/1806.09055,
equations 5-8.

One step, with ξ the learning rate, m the momentum buffer and μ, λ momentum and weight decay:
  1. α: w' = w − ξ(μ·m + ∂L_train(w, α)/∂w + λ·w); v = ∂L_val(w', α)/∂w'; R = 0.01/‖v‖ for each replica;
     g = ∂L_val(w', α)/∂α − ξ(∂L_train(w + R·v, α)/∂α − ∂L_train(w − R·v, α)/∂α)/(2R); Adam.
     The perturbed weights are those before the look-ahead. No clipping and no Nesterov inside.
  2. w: as first order.
Discretise: the highest logits of each row.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from searchers import _relax
from searchers._bilevel import ArchGradient, Bilevel, Recipe
from searchers._hypergradient import mixed_derivative
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import Batch, Method, Resources, StepBatches


@dataclass(frozen=True)
class Settings:
    """The paper's settings.

    Attributes:
        xi: look-ahead rate; None is the current learning rate of the weights.
        radius: R·‖v‖, the length of the finite difference.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)
    xi: float | None = None
    radius: float = 0.01


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""

    def gradient(searcher: Bilevel, batches: StepBatches) -> ArchGradient:
        return unrolled(searcher, batches, searcher.lr if settings.xi is None else settings.xi, settings.radius)

    return Bilevel(Recipe(arch_gradient=gradient), settings.weights, settings.arch, resources)


def unrolled(searcher: Bilevel, batches: StepBatches, xi: float, radius: float) -> ArchGradient:
    """Return the gradient of α ↦ L_val(w'(α), α), its second-order term by a central difference for each replica."""
    train, val = batches.train[0], batches.val[0]
    ahead = {name: value.requires_grad_() for name, value in _lookahead(searcher, train, xi).items()}
    leaves = searcher.leaves()
    losses = _relax.loss(searcher.supernet, val, searcher.relax(leaves), ahead)
    gradients = torch.autograd.grad(losses.sum(), [*leaves.values(), *ahead.values()])
    direct = dict(zip(leaves, gradients, strict=False))
    toward = searcher.weights.layout.flatten(dict(zip(ahead, gradients[len(leaves) :], strict=True)))
    implicit = mixed_derivative(searcher, train, toward, radius)
    return ArchGradient({name: direct[name] - xi * implicit[name] for name in leaves}, losses.detach())


def _lookahead(searcher: Bilevel, train: Batch, xi: float) -> dict[str, Tensor]:
    losses = _relax.loss(searcher.supernet, train, searcher.relax(searcher.logits()))
    gradients = torch.autograd.grad(losses.sum(), list(searcher.parameters.values()))
    return searcher.weights.lookahead(dict(zip(searcher.parameters, gradients, strict=True)), xi)


METHOD = Method("darts_2nd", Settings, build, "Liu et al. (2019), DARTS, second order", passes_per_step=5.0)
