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

from searchers._bilevel import Bilevel, Recipe
from searchers._hypergradient import second_order
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import Resources
from searchers.entry import Method, Published


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
    return Bilevel(
        Recipe(arch_gradient=second_order(settings.xi, settings.radius)), settings.weights, settings.arch, resources
    )


METHOD = Method(
    "darts_2nd",
    Settings,
    build,
    "Liu et al. (2019), DARTS, second order",
    passes_per_step=5.0,
    published=Published(50, "NAS-Bench-1Shot1's code, its default"),
    steady=True,
)
