"""iDARTS: the architecture gradient through several steps of training, by the implicit function theorem.

Source: Zhang, Su, Pan, Chang, Abbasnejad, Haffari (2021), iDARTS: Differentiable Architecture Search with Stochastic
Implicit Gradients, https://arxiv.org/abs/2106.10784, equations 9-13 and algorithm 1.

One step on `inner` training batches and one validation batch:
  1. w: an SGD step as in DARTS on each training batch.
  2. α, with L_train on the last training batch and all derivatives at the new weights: v_0 = ∂L_val/∂w,
     v_{i+1} = v_i − η·∂²L_train/∂w²·v_i, v = v_0 + … + v_terms; R = radius/‖v‖ for each replica;
     g = ∂L_val/∂α − η·(∂L_train(w + R·v)/∂α − ∂L_train(w − R·v)/∂α)/(2R); Adam.
Discretise: the highest logits of each row.

Sure: four inner steps, two terms, rate .01, the difference and its radius .01. Our reading: products with the Hessian
are exact, of the cross-entropy without weight decay; η is the present rate of the weights; the weights are not left
displaced as in the published code. An epoch passes over the training half once, so it has a quarter of DARTS'
architecture steps.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from searchers import _relax
from searchers._bilevel import ArchGradient, Bilevel, Recipe, weight_step, weights_first
from searchers._hypergradient import mixed_derivative, neumann, weight_hessian
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import Batch, DataPolicy, Flat, Resources, StepBatches
from searchers.entry import Method


@dataclass(frozen=True)
class Settings:
    """The authors' settings.

    Attributes:
        inner: weight steps before each architecture step.
        terms: of the Neumann series, besides v_0.
        eta: η; None is the present learning rate of the weights.
        radius: R·‖v‖, the length of the finite difference.
    """

    weights: WeightSettings = field(default_factory=lambda: WeightSettings(lr=0.01))
    arch: ArchSettings = field(default_factory=ArchSettings)
    inner: int = 4
    terms: int = 2
    eta: float | None = None
    radius: float = 0.01

    def __post_init__(self) -> None:
        if self.inner < 1 or self.terms < 0:
            raise ValueError(f"expected at least 1 inner step and 0 terms, got {self.inner} and {self.terms}")


def policy(settings: Settings) -> DataPolicy:
    """Return the policy of several training batches a step."""
    return DataPolicy(train_batches=settings.inner)


def hypergradient(
    searcher: Bilevel, train: Batch, val: Batch, eta: float, settings: Settings, ahead: Flat | None = None
) -> ArchGradient:
    """Return the gradient of the validation loss through the training of the weights.

    The validation loss is taken at the weights `ahead`; None: at the present ones, as all else.
    """
    weights = searcher.weights.leaf() if ahead is None else ahead.requires_grad_()
    leaves = searcher.leaves()
    losses = _relax.loss(searcher.supernet, val, searcher.relax(leaves), weights)
    *found, start = torch.autograd.grad(losses.sum(), [*leaves.values(), weights], materialize_grads=True)
    direct = dict(zip(leaves, found, strict=True))
    product = weight_hessian(searcher, train) if settings.terms else torch.zeros_like
    toward = neumann(product, start, eta, settings.terms)
    implicit = mixed_derivative(searcher, train, toward, settings.radius)
    return ArchGradient({name: direct[name] - eta * implicit[name] for name in leaves}, losses.detach())


def update(searcher: Bilevel, batches: StepBatches) -> Float[Tensor, " replicas"]:
    """Take a weight step on every training batch; return the mean of the losses before each."""
    choices = searcher.relax(searcher.logits())
    losses = [weight_step(searcher.supernet, searcher.weights, b, choices, searcher.lr) for b in batches.train]
    return torch.stack(losses).mean(0)


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""

    def gradient(searcher: Bilevel, batches: StepBatches) -> ArchGradient:
        eta = searcher.lr if settings.eta is None else settings.eta
        return hypergradient(searcher, batches.train[-1], batches.val[0], eta, settings)

    recipe = Recipe(arch_gradient=gradient, weight_update=update, order=weights_first, policy=policy(settings))
    return Bilevel(recipe, settings.weights, settings.arch, resources)


METHOD = Method(
    "idarts", Settings, build, "Zhang et al. (2021), iDARTS", passes_per_step=11.0, policy=policy, steady=True
)
