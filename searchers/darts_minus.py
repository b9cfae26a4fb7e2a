"""DARTS-: an auxiliary skip takes over what a skip connection does for training, and fades away.

Source: Chu, Wang, Zhang, Lu, Wei, Yan (2021), DARTS-: Robustly Stepping out of Performance Collapse Without Indicators,
https://arxiv.org/abs/2009.01027, equations 6-7 and algorithm 1.

One step, in a network whose mixed operations output β·x + Σ softmax(α)·o(x) for an input x; β falls linearly from
`start` in the first epoch to `end` in the last:
  1. α: g = ∂L_val(w, softmax(α), β)/∂α on a validation batch; Adam.
  2. w: ∂L_train(w, softmax(α), β)/∂w on a training batch; clip to norm 5; SGD.
Discretise: the highest logits of each row.

λ and the accuracy of the supernet are those of the network without the auxiliary skip, as it is at the end and as it is
discretised. Sure: where the skip is added, linear decay to 0, the ordinary skip stays an option. Our reading: β changes
from epoch to epoch; no mixed operation here has stride 2, so the skip has no weights; on NAS-Bench-1Shot1, which has no
skips, it is the identity of a choice block's input. No published code runs NAS-Bench-201.
"""

from dataclasses import dataclass, field

from searchers._bilevel import ArchGradient, Bilevel, Moment, Recipe, first_order
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import ForwardInputs, Resources, StepBatches, SupernetOptions
from searchers.entry import Method


@dataclass(frozen=True)
class Settings:
    """The paper's settings.

    Attributes:
        start: coefficient of the auxiliary skip in the first epoch.
        end: in the last.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)
    start: float = 1.0
    end: float = 0.0


def coefficient(settings: Settings, moment: Moment) -> float:
    """Return β of the present epoch; a search of one epoch has the first one's."""
    last = moment.resources.horizon.epochs - 1
    return settings.start + (settings.end - settings.start) * moment.epoch / max(last, 1)


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""

    def inputs(searcher: Bilevel, _batches: StepBatches) -> ForwardInputs:
        return ForwardInputs(auxiliary=coefficient(settings, searcher.moment()))

    def gradient(searcher: Bilevel, batches: StepBatches) -> ArchGradient:
        return first_order(searcher, batches, inputs(searcher, batches))

    recipe = Recipe(
        weight_inputs=inputs,
        arch_gradient=gradient,
        hessian_of="validation cross-entropy through the softmax relaxation, without the auxiliary skip",
        options=SupernetOptions(auxiliary_skip=True),
    )
    return Bilevel(recipe, settings.weights, settings.arch, resources)


METHOD = Method(
    "darts_minus",
    Settings,
    build,
    "Chu et al. (2021), DARTS-",
    passes_per_step=2.0,
    networks=lambda _settings: (SupernetOptions(auxiliary_skip=True),),
    steady=True,
)
