"""GAEA in one level: weights and mixing weights descend on the loss of the same batch, θ by exponentiated gradient.

Source: Li, Khodak, Balcan, Talwalkar (2021), Geometry-Aware Gradient Algorithms for Neural Architecture Search,
https://arxiv.org/abs/2004.07802, algorithm 1 and section 4.3 (empirical risk minimisation).

One step on a batch of all images, with θ uniform at the start; both gradients are taken before either update:
  1. θ: g = ∂L(w, θ)/∂θ; θ ← θ·exp(−η·g), rows divided by their sums, at least 1e-5.
  2. w: ∂L(w, θ)/∂w; clip to norm 5; SGD.
Discretise: the highest θ of each row.

The searcher's logits are log θ. Sure: update, η = .1, floor, `none` left out on NAS-Bench-201, no weight decay on θ.
The authors search 25 epochs in a network of 24 channels and 5 cells; sizes and epochs here are the benchmark's. Our
reading: choices of inputs are rows on the simplex, too; after the floor a row is divided by its sum again.
"""

from dataclasses import dataclass, field

from searchers._optim import ArchSettings, WeightSettings
from searchers._simplex import Simplex, SimplexSettings
from searchers._single import ALL, Single, SingleRecipe
from searchers.base import Choices, Logits, Resources
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """The authors' settings of θ, DARTS' of the weights."""

    weights: WeightSettings = field(default_factory=WeightSettings)
    simplex: SimplexSettings = field(default_factory=SimplexSettings)


def build(settings: Settings, resources: Resources) -> Single:
    """Return the searcher."""
    simplex = Simplex(resources.groups, settings.simplex)

    def choices(_searcher: Single, leaves: Logits) -> Choices:
        return simplex.by_theta(leaves)

    recipe = SingleRecipe(relax=simplex.relax, choices=choices, init=simplex.init, optimiser=simplex.optimiser)
    return Single(recipe, settings.weights, ArchSettings(lr=settings.simplex.lr), resources)


METHOD = Method(
    "gaea_erm",
    Settings,
    build,
    "Li et al. (2021), GAEA, one level",
    passes_per_step=1.0,
    policy=lambda _settings: ALL,
    published=Published(25, "the authors' code on NAS-Bench-201"),
    steady=True,
)
