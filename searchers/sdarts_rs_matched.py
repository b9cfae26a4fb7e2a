"""SDARTS-RS with the noise of MS-DARTS, a control arm.

Source: our control of Hsieh et al. (2021), MS-DARTS, https://arxiv.org/abs/2108.09996, by the rule of Chen and Hsieh
(2020), SmoothDARTS, https://arxiv.org/abs/2002.05283.

One step, with A = softmax(α), ε as `ms_darts` and ρ = ε·√(T/N):
  1. α: as DARTS, first order, at softmax(α).
  2. w: one draw δ = U(−ρ, ρ) for the batch; ∂L_train(w, A + δ)/∂w; clip to norm 5; SGD. α is as before.
Discretise: the highest logits of each row.

δ has the standard deviation ε/√3·√(T/N) that the shift of `ms_darts` has where its weights are equal (`ms_null`). Like
that shift it is not projected; `projected` makes it SDARTS-RS of radius ρ.
"""

import math
from dataclasses import dataclass, field

from searchers._bilevel import Bilevel, Recipe
from searchers._optim import ArchSettings, WeightSettings
from searchers._perturb import Mixture, Ramp, add, noise, project, require_counts, weight_choices
from searchers.base import Resources, StepBatches
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """The settings of `ms_darts` that decide how large its shift is.

    Attributes:
        radius: ε of the matched samples.
        samples: N of the matched mean shift.
        rounds: T of the matched mean shift.
        projected: true projects the perturbed rows onto the simplex, as SDARTS-RS does.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)
    radius: Ramp = field(default_factory=lambda: Ramp(0.025, 0.25))
    samples: int = 3
    rounds: int = 2
    projected: bool = False

    def __post_init__(self) -> None:
        require_counts(self.samples, self.rounds, "box")


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""
    ratio = math.sqrt(settings.rounds / settings.samples)

    def smooth(searcher: Bilevel, clean: Mixture, batches: StepBatches) -> Mixture:  # noqa: ARG001 - the hook's form
        radius = ratio * settings.radius.at(searcher.moment().progress)
        moved = add(clean, noise(searcher, clean, radius)[0])
        return project(moved) if settings.projected else moved

    return Bilevel(Recipe(weight_choices=weight_choices(smooth)), settings.weights, settings.arch, resources)


METHOD = Method(
    "sdarts_rs_matched",
    Settings,
    build,
    "control of MS-DARTS: uniform noise as large",
    passes_per_step=2.0,
    published=Published(100, "as MS-DARTS, whose control arm it is"),
    steady=True,
)
