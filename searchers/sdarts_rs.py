"""SDARTS-RS: the weights are trained under randomly perturbed mixing weights.

Source: Chen and Hsieh (2020), Stabilizing Differentiable Architecture Search via Perturbation-based Regularization,
https://arxiv.org/abs/2002.05283, the random-smoothing form of SmoothDARTS: w(A) = argmin_w E_δ L_train(w, A + δ),
δ uniform in [−ε, ε].

One step, with A = softmax(α) and ε = 0.03 + (0.3 − 0.03)·e/E in epoch e of E:
  1. α: as DARTS, first order, at A.
  2. w: one draw of δ for the batch; ∂L_train(w, project(A + δ))/∂w; clip to norm 5; SGD. α is as before.
Discretise: the highest logits of each row.

Sure: the rule, ε and its ramp. Our reading: a row of A + δ is clamped to [0, 1] and divided by its sum, and a row
without positive entries becomes one-hot at its maximum before the clamp; a row on the simplex up to rounding is left
as it is, so that ε = 0 is DARTS to the bit.
"""

from dataclasses import dataclass, field

from searchers._bilevel import Bilevel, Recipe
from searchers._optim import ArchSettings, WeightSettings
from searchers._perturb import Mixture, Ramp, add, noise, project, weight_choices
from searchers.base import Resources, StepBatches
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """The paper's settings.

    Attributes:
        radius: ε, the largest change of a mixing weight.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)
    radius: Ramp = field(default_factory=Ramp)


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""

    def smooth(searcher: Bilevel, clean: Mixture, batches: StepBatches) -> Mixture:  # noqa: ARG001 - the hook's form
        radius = settings.radius.at(searcher.moment().progress)
        return project(add(clean, noise(searcher, clean, radius)[0]))

    return Bilevel(Recipe(weight_choices=weight_choices(smooth)), settings.weights, settings.arch, resources)


METHOD = Method(
    "sdarts_rs",
    Settings,
    build,
    "Chen and Hsieh (2020), SmoothDARTS, random smoothing",
    passes_per_step=2.0,
    published=Published(100, "the authors' code on NAS-Bench-1Shot1 and NAS-Bench-201"),
    steady=True,
)
