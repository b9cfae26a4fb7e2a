"""MS-null: MS-DARTS without its weights, a control arm.

Source: our control of Hsieh et al. (2021), MS-DARTS, https://arxiv.org/abs/2108.09996, with ω = κ = 1.

One step, with A = softmax(α) and ε as `ms_darts`:
  1. α: as DARTS, first order, at softmax(α).
  2. T rounds from the centre c = A: N samples A_p = c + U(−ε, ε); c ← their plain mean. No loss is measured.
  3. w: ∂L_train(w, c)/∂w; clip to norm 5; SGD. c may lie off the simplex. α is as before.
Discretise: the highest logits of each row.

The noise is that of `ms_darts` at the same seed and step, so whatever the two differ in comes from ω and κ. The shift
has mean 0 and, for the box, variance T·ε²/(3N) in every entry.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from searchers import _perturb
from searchers._bilevel import Bilevel, Recipe
from searchers._optim import ArchSettings, WeightSettings
from searchers._perturb import Mixture, Ramp, Region
from searchers.base import Resources, StepBatches
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """The settings of `ms_darts` that matter without weights; each means the same there."""

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)
    radius: Ramp = field(default_factory=lambda: Ramp(0.025, 0.25))
    samples: int = 3
    rounds: int = 2
    region: Region = "box"
    projected: bool = False

    def __post_init__(self) -> None:
        _perturb.require_counts(self.samples, self.rounds, self.region)


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""

    def shifted(searcher: Bilevel, clean: Mixture, batches: StepBatches) -> Mixture:  # noqa: ARG001 - the hook's form
        sampling = _perturb.Sampling(settings.radius, settings.region, settings.samples, settings.rounds)
        sample = _perturb.sampler(searcher, clean, sampling)
        centre = _perturb.mean_shift(clean, settings.rounds, sample, equal)
        return _perturb.project(centre) if settings.projected else centre

    recipe = Recipe(weight_choices=_perturb.weight_choices(shifted))
    return Bilevel(recipe, settings.weights, settings.arch, resources)


def equal(centre: Mixture, samples: Sequence[Mixture]) -> dict[str, Float[Tensor, "samples replicas"]]:
    """Return log weights of 0: every sample counts the same."""
    return {name: value.new_zeros(len(samples), value.shape[1]) for name, value in centre.items()}


METHOD = Method(
    "ms_null",
    Settings,
    build,
    "control of MS-DARTS: equal weights",
    passes_per_step=2.0,
    published=Published(100, "as MS-DARTS, whose control arm it is"),
    steady=True,
)
