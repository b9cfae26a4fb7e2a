"""EnTranNAS-DST: sparsification by thresholds that are learned, so that a node may have any number of inputs.

Source: Yang, You, Li, Wang, Qian, Lin (2021), Towards Improving the Consistency, Efficiency, and Flexibility of
Differentiable Neural Architecture Search, https://arxiv.org/abs/2101.11342, section 3.3.

With p = softmax(α/τ), t_j = σ(b_j) the threshold of node j, and the maximum over all options of all edges into j,
  q = ReLU(p/max p − t_j), and q̂ = q/Σq on each edge where some q is not zero; the other edges are absent.
One step, as DARTS, under these mixing weights:
  engine cell: q̂.   transit cells: weight 1 on every option with q > 0.   What has q = 0 is computed nowhere.
  1. α and b: the gradient of L_val − λ·mean_j log t_j on a validation batch; Adam.
  2. w: ∂L_train/∂w on a training batch; clip; SGD.
Discretise: the highest logits of each row; on NAS-Bench-201 an absent edge becomes `none`.

Sure: q, t, one engine cell, transit cells of all that is left. Our reading: normalisation on each edge (of a node the
maximum always survives, so the paper's condition could never fail); λ = .1, b = 0 at the start (t = .5) and the mean in
the loss; engine and τ as in `entrannas`. But `none` counts like any other option of NAS-Bench-201: it may be a node's
maximum, a transit cell may run it alone, and where it has an edge's highest logit it is selected. On NAS-Bench-1Shot1 a
row that chooses inputs has a threshold and keeps as many inputs as the space says; operations have no threshold, and
transit cells run the best one. b is decayed with α.
"""

from dataclasses import dataclass, field

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from searchers import _engine, _sparsify
from searchers._bilevel import Bilevel, Moment, Recipe
from searchers._engine import EngineSettings
from searchers._optim import ArchSettings, WeightSettings
from searchers._sparsify import THRESHOLD
from searchers.base import Choices, Logits, Resources, SupernetOptions
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """The settings of DARTS, which the paper keeps.

    Attributes:
        share_features: false gives every edge operations of its own.
        pressure: λ, of the loss that raises thresholds.
        threshold: b at the start.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    share_features: bool = True
    pressure: float = 0.1
    threshold: float = 0.0


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""
    groups, nodes = resources.groups, _sparsify.nodes(resources.groups)

    def sparse(logits: Logits) -> _sparsify.Sparse:
        tau = _engine.temperature(settings.engine, searcher.moment())
        return _sparsify.sparsify(
            {g.name: (logits[g.name] / tau).softmax(-1) for g in groups}, logits[THRESHOLD], nodes
        )

    def relax(logits: Logits) -> Choices:
        found = sparse(logits)
        engines = _engine.places(settings.engine, searcher.supernet.cells)
        computed, derived = _sparsify.on_host(groups, nodes, found, logits)
        return _sparsify.carrying(_engine.assemble(engines, found.mixed, derived, computed), logits)

    def select(logits: Logits) -> Logits:
        return _sparsify.absent_to_none(groups, sparse(logits), logits)

    def pressure(leaves: Logits, _moment: Moment) -> Float[Tensor, " replicas"]:
        return -settings.pressure * F.logsigmoid(leaves[THRESHOLD]).mean((1, 2))

    extra = _sparsify.threshold_group(nodes)
    recipe = Recipe(
        relax,
        penalties=(pressure,),
        select=select,
        init=_sparsify.initial(settings.threshold),
        shift_invariant=tuple(group.name for group in groups),
        hessian_of="validation cross-entropy through the sparsified softmax of the engine cell, thresholds included",
        options=SupernetOptions(shared_features=settings.share_features, groups=(extra,)),
    )
    searcher = Bilevel(recipe, settings.weights, settings.arch, resources)
    _engine.check(settings.engine, searcher.supernet.cells)
    return searcher


METHOD = Method(
    "entrannas_dst",
    Settings,
    build,
    "Yang et al. (2021), EnTranNAS-DST",
    passes_per_step=1.7,
    published=Published(50, "DARTS' protocol; from memory of the paper"),
    networks=lambda settings: (SupernetOptions(shared_features=settings.share_features),),
)
