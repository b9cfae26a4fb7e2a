"""GAEA in two levels: DARTS with mixing weights on the simplex and exponentiated gradient.

Source: Li, Khodak, Balcan, Talwalkar (2021), Geometry-Aware Gradient Algorithms for Neural Architecture Search,
https://arxiv.org/abs/2004.07802, algorithm 1 and section 4.3.

One step, with θ uniform at the start:
  1. θ: g = ∂L_val(w, θ)/∂θ on a validation batch; θ ← θ·exp(−η·g), rows divided by their sums, at least 1e-5.
  2. w: ∂L_train(w, θ)/∂w on a training batch; clip to norm 5; SGD.
Discretise: the highest θ of each row.

The searcher's logits are log θ. Sure: update, η = .1, floor, `none` left out on NAS-Bench-201, no weight decay on θ.
The authors search 25 epochs in a network of 24 channels and 5 cells; sizes and epochs here are the benchmark's. Our
reading: choices of inputs are rows on the simplex, too; after the floor a row is divided by its sum again.
"""

from dataclasses import dataclass, field

import torch

from searchers._bilevel import ArchGradient, Bilevel, Recipe
from searchers._optim import ArchSettings, WeightSettings
from searchers._simplex import Simplex, SimplexSettings
from searchers.base import Resources, StepBatches
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """The authors' settings of θ, DARTS' of the weights."""

    weights: WeightSettings = field(default_factory=WeightSettings)
    simplex: SimplexSettings = field(default_factory=SimplexSettings)


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""
    simplex = Simplex(resources.groups, settings.simplex)

    def gradient(searcher: Bilevel, batches: StepBatches) -> ArchGradient:
        leaves = searcher.leaves()
        losses = searcher.loss_by_logits(batches.val[0], simplex.by_theta(leaves))
        found = torch.autograd.grad(losses.sum(), list(leaves.values()))
        return ArchGradient(dict(zip(leaves, found, strict=True)), losses.detach())

    recipe = Recipe(relax=simplex.relax, arch_gradient=gradient, init=simplex.init, optimiser=simplex.optimiser)
    return Bilevel(recipe, settings.weights, ArchSettings(lr=settings.simplex.lr), resources)


METHOD = Method(
    "gaea_bilevel",
    Settings,
    build,
    "Li et al. (2021), GAEA, two levels",
    passes_per_step=2.0,
    published=Published(25, "the authors' code on NAS-Bench-201"),
    steady=True,
)
