"""PC-DARTS: operations mix a part of the channels, and nodes weigh their edges.

Source: Xu, Xie, Zhang, Chen, Qi, Tian, Xiong (2020), PC-DARTS: Partial Channel Connections for Memory-Efficient
Architecture Search, https://arxiv.org/abs/1907.05737, equations 1-4.

The network: the first 1/K of a node's channels is mixed with softmax(α), the others bypass it; both are put side by
side and shuffled with K groups (view K × C/K, transpose). A node sums its incoming edges with softmax(β).
One step:
  1. α, β: g = ∂L_val(w, softmax(α), softmax(β)) on a validation batch; Adam. Not in the warm-up.
  2. w: ∂L_train/∂w on a training batch; clip; SGD.
Discretise: the highest logits of each row. On NAS-Bench-1Shot1 the rows `in_j` are β, and the output's row is as in
DARTS; on NAS-Bench-201 the network adds the rows `in_1`, `in_2`, `in_3`, which discretisation ignores, since every edge
is kept.

Sure: the network, and both sets of settings. Our reading: β on NAS-Bench-201, for which there is no published code. λ
is that of this network, whose mixtures act on 1/K of the channels: compare it with DARTS' with care.
"""

from dataclasses import dataclass, field

from searchers._bilevel import Bilevel, Recipe
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import DataPolicy, Resources, SupernetOptions
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """Defaults of NAS-Bench-1Shot1 (Zela et al. 2020).

    Attributes:
        partial_channels: K; it divides the channels of the first cell.
        edge_weights: true weighs edges by β; where the space has such rows it does so anyway.
        warm_up: share of the epochs in which α and β stay.
        batch_size: None uses the benchmark's.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)
    partial_channels: int = 4
    edge_weights: bool = True
    warm_up: float = 0.0
    batch_size: int | None = None


ONE_SHOT = Settings()
"""NAS-Bench-1Shot1: the settings of DARTS there, K = 4, no warm-up."""

ORIGINAL = Settings(
    weights=WeightSettings(lr=0.1, lr_min=0.0), arch=ArchSettings(lr=6e-4), warm_up=15 / 50, batch_size=256
)
"""Xu et al. (2020), section 4.2: larger batch and rates, architecture fixed for 15 of 50 epochs."""


def policy(settings: Settings) -> DataPolicy:
    """Return the policy of two halves at the method's batch size."""
    return DataPolicy(batch_size=lambda _epoch, base: settings.batch_size or base)


def network(settings: Settings) -> SupernetOptions:
    """Return what is built into the network."""
    return SupernetOptions(settings.partial_channels, settings.edge_weights)


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""
    if not 0 <= settings.warm_up <= 1:
        raise ValueError(f"expected a warm_up in [0, 1], got {settings.warm_up}")
    parts = settings.partial_channels
    of = "" if parts == 1 else f", of a network whose mixtures act on 1/{parts} of the channels"
    recipe = Recipe(
        hessian_of=f"validation cross-entropy through the softmax relaxation{of}",
        warm_up=settings.warm_up,
        policy=policy(settings),
        options=network(settings),
    )
    return Bilevel(recipe, settings.weights, settings.arch, resources)


METHOD = Method(
    "pc_darts",
    Settings,
    build,
    "Xu et al. (2020), PC-DARTS",
    passes_per_step=1.8,
    policy=policy,
    published=Published(100, "NAS-Bench-1Shot1, whose settings are the defaults"),
    networks=lambda settings: (network(settings),),
    steady=True,
)
