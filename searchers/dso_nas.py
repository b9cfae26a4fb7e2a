"""DSO-NAS: every option has a scale factor, and a proximal step sets those of no use to zero.

Source: Zhang, Huang, Wang, Xiang, Pan (2021), You Only Search Once: Single Shot Neural Architecture Search via Direct
Sparse Optimization, https://arxiv.org/abs/1811.01567, sections 3.2 (scale factors) and 3.3 (optimisation).

Mixing weights are the scales s themselves, 1 at the start: no softmax. In the first half of the epochs only the weights
train (all scales are 1). One step of the second half:
  1. w: ∂L_train(w, s)/∂w; clip to norm 5; SGD with Nesterov momentum, weight decay 1e-4.
  2. s: accelerated proximal gradient on L_val + γ·Σ|s|, with soft(x, t) = sign(x)·max(|x| − t, 0):
     z = soft(s − η·∂L_val/∂s, η·γ); v ← μ·v + z − s; s ← max(0, z + μ·v).
After an epoch an option whose scale is zero leaves the graph for good: it is not computed, and neither its scale nor
its weights move. Scales are read from the device for that, once an epoch.
Discretise: the highest scales of each row; among zeros, what died last. On NAS-Bench-201 `none` has no scale: a row of
zeros is `none`.

Sure: update, γ = 1e-3, μ = .9, η = .1, constant, batch 128. It is plain L1, as in the authors' code, not a group Lasso.
Our reading: half of the epochs for the first stage, DARTS' rates for the weights, inputs have scales like operations.
An option is normalised before its scale where it has a batch norm, which skips and pooling do not have in these spaces.
"""

from dataclasses import dataclass, field

import torch

from searchers._bilevel import Bilevel, Recipe, weights_first
from searchers._exclude import Alive, columns
from searchers._hosted import constant
from searchers._optim import ArchSettings, WeightSettings
from searchers._proximal import ProximalGradient, ScaleSettings, by_death, starting_scales
from searchers.base import Choices, DataPolicy, Logits, Resources
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """The authors' settings, with DARTS' rates for the weights.

    Attributes:
        warm_up: share of the epochs in which only the weights move.
        batch_size: None uses the benchmark's.
    """

    weights: WeightSettings = field(default_factory=lambda: WeightSettings(weight_decay=1e-4, nesterov=True))
    scale: ScaleSettings = field(default_factory=ScaleSettings)
    warm_up: float = 0.5
    batch_size: int | None = 128


def policy(settings: Settings) -> DataPolicy:
    """Train on halves, at the method's own batch size."""
    return DataPolicy(batch_size=lambda _epoch, base: settings.batch_size or base)


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""
    if not 0 <= settings.warm_up <= 1:
        raise ValueError(f"expected a warm_up in [0, 1], got {settings.warm_up}")
    alive = Alive(resources.groups, resources.replicas)
    none = columns(resources.groups, "none")

    def optimiser(scales: Logits, _arch: ArchSettings) -> ProximalGradient:
        return ProximalGradient(scales, settings.scale)

    def relax(scales: Logits) -> Choices:
        if all(mask.all() for mask in alive.masks.values()):
            return Choices({name: value[None] for name, value in scales.items()})
        masks = {name: constant(alive.masks[name], value.device) for name, value in scales.items()}
        weights = {name: torch.where(masks[name], value, 0.0)[None] for name, value in scales.items()}
        return Choices(weights, {name: mask[None].copy() for name, mask in alive.masks.items()})

    def bury(searcher: Bilevel, _epoch: int) -> None:
        for name, value in searcher.logits().items():
            left = (value > 0).cpu().numpy()
            if name in none:
                left[..., none[name]] = True
            alive.masks[name] &= left

    def select(scales: Logits) -> Logits:
        assert isinstance(searcher.arch, ProximalGradient)
        return by_death(scales, searcher.arch.deaths())

    recipe = Recipe(
        relax=relax,
        init=starting_scales,
        optimiser=optimiser,
        arch_moves=lambda searcher: alive.moves(next(iter(searcher.logits().values()))),
        order=weights_first,
        end_epoch=bury,
        memory=alive,
        select=select,
        shift_invariant=(),
        hessian_of="validation cross-entropy as a function of the scales",
        warm_up=settings.warm_up,
        policy=policy(settings),
    )
    searcher = Bilevel(recipe, settings.weights, ArchSettings(lr=settings.scale.lr), resources)
    return searcher


METHOD = Method(
    "dso_nas",
    Settings,
    build,
    "Zhang et al. (2021), DSO-NAS",
    passes_per_step=2.0,
    policy=policy,
    published=Published(120, "the default run of the authors' code"),
    steady=True,
)
