"""EnTranNAS: one engine cell searches, the others already are the derived cell.

Source: Yang, You, Li, Wang, Qian, Lin (2021), Towards Improving the Consistency, Efficiency, and Flexibility of
Differentiable Neural Architecture Search, https://arxiv.org/abs/2101.11342, section 3.2.

One step, as DARTS, under these mixing weights, derived anew from the present α in each of the two levels:
  engine cell: softmax(α/τ); the only place where α gets a gradient.
  transit cells: weight 1 on what the present α would be discretised to; nothing else is computed.
  1. α: ∂L_val/∂α on a validation batch; Adam.   2. w: ∂L_train/∂w on a training batch; clip; SGD.
On NAS-Bench-201 an operation on a node is computed once, and has one set of weights, for all edges out of the node.
Discretise: the highest logits of each row; no edge gets `none`.

Sure: the two kinds of cells, one engine cell, derivation in every step, shared features. Our reading: the engine is the
last cell of the second stage (`engine.cells` says otherwise), τ falls exponentially from 1 to .1, and `none` is never
derived, as in the paper's space: a transit cell of `none` alone would cut the network (`derive_none` allows it). Rows
that keep k inputs run k of them with weight 1 in transit cells, while an engine cell's weights sum to 1. λ is that of
the engine cell at the epoch's temperature, with transit cells as they are: in logits it grows as 1/τ², a hundredfold
from the first epoch to the last; `lambda_simplex` does not.
"""

from dataclasses import dataclass, field

from searchers import _engine
from searchers._bilevel import Bilevel, Recipe
from searchers._engine import EngineSettings
from searchers._exclude import select_without
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import Choices, Logits, Resources, SupernetOptions
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """The settings of DARTS, which the paper keeps.

    Attributes:
        share_features: false gives every edge operations of its own.
        derive_none: true lets derived cells have `none`.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    share_features: bool = True
    derive_none: bool = False


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""
    without_none = select_without(resources.groups, "none")

    def select(logits: Logits) -> Logits:
        return logits if settings.derive_none else without_none(logits)

    def relax(logits: Logits) -> Choices:
        tau = _engine.temperature(settings.engine, searcher.moment())
        mixed = {name: (value / tau).softmax(-1) for name, value in logits.items()}
        engines = _engine.places(settings.engine, searcher.supernet.cells)
        return _engine.assemble(engines, mixed, _engine.k_hot(searcher.supernet.groups, select(logits)), None)

    recipe = Recipe(
        relax,
        select=select,
        excluded=() if settings.derive_none else ("none",),
        hessian_of="validation cross-entropy through the softmax of the engine cell at the epoch's temperature",
        options=SupernetOptions(shared_features=settings.share_features),
    )
    searcher = Bilevel(recipe, settings.weights, settings.arch, resources)
    _engine.check(settings.engine, searcher.supernet.cells)
    return searcher


METHOD = Method(
    "entrannas",
    Settings,
    build,
    "Yang et al. (2021), EnTranNAS",
    passes_per_step=1.3,
    published=Published(50, "DARTS' protocol; from memory of the paper"),
    networks=lambda settings: (SupernetOptions(shared_features=settings.share_features),),
)
