"""DARTS, first order.

Source: Liu, Simonyan, Yang (2019), DARTS: Differentiable Architecture Search, https://arxiv.org/abs/1806.09055,
equations 2-4 and algorithm 1 with ξ = 0.

One step:
  1. α: g = ∂L_val(w, softmax(α))/∂α on a validation batch; Adam(3e-4, betas .5 .999, weight decay 1e-3).
  2. w: ∂L_train(w, softmax(α))/∂w on a training batch; clip to norm 5;
     SGD(momentum .9, weight decay 3e-4), cosine rate.
Discretise: the highest logits of each row.

The order is the paper's on every benchmark; NATS-Bench's code moves the weights first.
"""

from dataclasses import dataclass, field

from searchers._bilevel import Bilevel, Recipe
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import Resources
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """The paper's settings."""

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""
    return Bilevel(Recipe(), settings.weights, settings.arch, resources)


METHOD = Method(
    "darts",
    Settings,
    build,
    "Liu et al. (2019), DARTS, first order",
    passes_per_step=2.0,
    published=Published(50, "NAS-Bench-1Shot1's code, its default"),
    steady=True,
)
