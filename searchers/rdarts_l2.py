"""R-DARTS (L2): DARTS with stronger weight decay of the network's weights.

Source: Zela, Elsken, Saikia, Marrakchi, Brox, Hutter (2020), Understanding and Robustifying Differentiable Architecture
Search, https://arxiv.org/abs/1909.09656, section 5.2.

One step: as DARTS, first order; SGD of the weights with weight decay 27e-4 instead of 3e-4.
Discretise: the highest logits of each row.

Sure: the grid 3e-4, 9e-4, 27e-4, 81e-4, 243e-4 and that a run keeps one value; 3e-4 is DARTS. The paper searches with
each value and chooses by validation error after retraining; here a run is one value. Our reading: 27e-4 as the default
(λ falls with weight decay, and the largest values kill the network on some data), and first order where the paper's
code is second order (setting `order`), so that the arm differs from DARTS in its weight decay only.
"""

from dataclasses import dataclass, field

from searchers._bilevel import Bilevel, Recipe
from searchers._hypergradient import Order, of_order
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import Resources
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """Settings of DARTS with one of the paper's weight decays.

    Attributes:
        order: of the architecture's gradient; the paper's code is second order.
    """

    weights: WeightSettings = field(default_factory=lambda: WeightSettings(weight_decay=27e-4))
    arch: ArchSettings = field(default_factory=ArchSettings)
    order: Order = "first"


GRID = tuple(Settings(weights=WeightSettings(weight_decay=decay)) for decay in (3e-4, 9e-4, 27e-4, 81e-4, 243e-4))
"""Zela et al. (2020), section 5.2."""


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""
    return Bilevel(Recipe(arch_gradient=of_order(settings.order)), settings.weights, settings.arch, resources)


METHOD = Method(
    "rdarts_l2",
    Settings,
    build,
    "Zela et al. (2020), R-DARTS, weight decay",
    passes_per_step=2.0,
    published=Published(50, "the authors' code"),
    steady=True,
)
