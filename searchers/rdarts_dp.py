"""R-DARTS (DP): DARTS whose mixed operations are dropped for single images while the weights train.

Source: Zela, Elsken, Saikia, Marrakchi, Brox, Hutter (2020), Understanding and Robustifying Differentiable Architecture
Search, https://arxiv.org/abs/1909.09656, section 5.1.

One step, with p = p_max·e/(E − 1) in epoch e of E:
  1. α: as DARTS, first order, nothing dropped.
  2. w: as DARTS, with every mixed operation's output multiplied for each image by 0 with probability p and by 1/(1 − p)
     otherwise: its expectation is the output.
Discretise: the highest logits of each row.

Sure: schedule, factor, and that it acts for each image. Our extension: NAS-Bench-1Shot1 and NAS-Bench-201 have no
drop-path; here it acts on the output of a choice block (never on the projections of a cell's input) and on that of an
edge. Our reading: the architecture step drops nothing; first order, where the paper's code is second order (setting
`order`). The paper's cutout, with a probability that rises as p does, belongs to the benchmark's augmentation, not to
this method.
"""

from dataclasses import dataclass, field

from searchers._bilevel import Bilevel, Recipe
from searchers._drop_path import drop_path
from searchers._hypergradient import Order, of_order
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import ForwardInputs, Resources, StepBatches
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """Settings of DARTS with one of the paper's drop probabilities.

    Attributes:
        drop: p_max, the probability in the last epoch; the paper's are 0, 0.2, 0.4, 0.6. 0 is DARTS.
        order: of the architecture's gradient; the paper's code is second order.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)
    drop: float = 0.4
    order: Order = "first"


GRID = tuple(Settings(drop=p) for p in (0.0, 0.2, 0.4, 0.6))
"""Zela et al. (2020), section 5.1."""


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""
    if not 0 <= settings.drop < 1:
        raise ValueError(f"expected a drop probability in [0, 1), got {settings.drop}")

    def inputs(searcher: Bilevel, batches: StepBatches) -> ForwardInputs:
        p = settings.drop * searcher.epoch / max(resources.horizon.epochs - 1, 1)
        return drop_path(searcher.supernet, searcher.streams("drop_path"), p, batches.train[0].images)

    recipe = Recipe(weight_inputs=inputs, arch_gradient=of_order(settings.order))
    return Bilevel(recipe, settings.weights, settings.arch, resources)


METHOD = Method(
    "rdarts_dp",
    Settings,
    build,
    "Zela et al. (2020), R-DARTS, drop-path (its places in these spaces are our extension)",
    passes_per_step=2.0,
    published=Published(50, "the authors' code"),
    steady=True,
)
