"""DARTS-PT with fixed α: the weights of the uniform mixture are trained, and perturbation selects.

Source: Wang, Cheng, Chen, Tang, Hsieh (2021), Rethinking Architecture Selection in Differentiable NAS,
https://arxiv.org/abs/2108.04392, section 6 ("fixed α").

  1. four fifths of the epochs, one step: ∂L_train/∂w at α = 0 on a training batch; clip; SGD. α stays.
  2. the other epochs: as `darts_pt`, but that tuning moves the weights only.
Discretise: the decisions; nothing is selected before the last of them.

Sure: α is never trained. Our reading: the weights see the training half only. λ is the curvature by logits that stay
where they are: of the uniform mixture, and of its rows that are not decided yet.
"""

from dataclasses import dataclass, field

from searchers import _relax
from searchers._bilevel import Bilevel, Recipe
from searchers._optim import ArchSettings, WeightSettings
from searchers._perturbation import SELECTION
from searchers._staged import staged
from searchers.base import DataPolicy, Resources
from searchers.entry import Method

WEIGHTS_ONLY = DataPolicy(val_batches=0)


@dataclass(frozen=True)
class Settings:
    """Settings of the uniform mixture's training: those of DARTS."""

    weights: WeightSettings = field(default_factory=WeightSettings)


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher whose architecture never moves: it is warming up all the time."""
    recipe = Recipe(
        init=_relax.zero_logits,
        select=lambda _logits: None,
        hessian_of="validation cross-entropy through the softmax of logits that stay zero",
        warm_up=1.0,
        policy=WEIGHTS_ONLY,
    )
    return Bilevel(recipe, settings.weights, ArchSettings(), resources)


UNIFORM = Method(
    "uniform",
    Settings,
    build,
    "the uniform mixture",
    passes_per_step=1.0,
    policy=lambda _settings: WEIGHTS_ONLY,
    steady=True,
)

METHOD = staged("darts_pt_fixed", UNIFORM, SELECTION)
