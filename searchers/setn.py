"""SETN, one-shot search by a self-evaluated template network.

Source: Dong and Yang (2019), One-Shot Neural Architecture Search via Self-Evaluated Template Network,
https://arxiv.org/abs/1910.05733, section 3; protocol of Dong et al. (2021), NATS-Bench.

One step, weights first:
  1. w: ∂L_train/∂w through a uniform discrete cell, in every cell of the network another; no clipping; SGD with
     Nesterov momentum, cosine rate. What a replica did not sample does not move for it.
  2. α: ∂L_val(w, softmax(α))/∂α on a validation batch; Adam. The softmax is the evaluator's distribution of cells.
After an epoch (or the last one only): 100 cells drawn from softmax(α), each on one validation batch; the best one is
selected. Drawing reads the logits from the device.

Sure: uniform sampling for the weights, the evaluator by the softmax mixture on validation data, sampling by it, 100
candidates on a batch. Our reading: another cell in every cell of the network, as random search of NATS-Bench has it
(setting `per_cell`); a decision that keeps several options keeps those of the highest logits plus Gumbel noise, which
draws without replacement; a uniform cell that carries no signal is drawn again, a candidate is not. λ is that of the
softmax relaxation with weights that were trained on discrete cells.
"""

from dataclasses import dataclass, field
from typing import Any

from searchers import _gumbel, _ranking
from searchers._bilevel import Bilevel, Recipe, weights_first
from searchers._optim import ArchSettings, WeightSettings
from searchers._paths import uniform
from searchers._ranking import KHot, RankingSettings, as_choices, rank_after
from searchers.base import Choices, Logits, Resources, StepBatches
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """Rates, weight decay, optimisers and candidates of NATS-Bench.

    Attributes:
        per_cell: true draws another cell for every cell of the network while training.
    """

    weights: WeightSettings = field(default_factory=lambda: WeightSettings(weight_decay=5e-4, clip=None, nesterov=True))
    arch: ArchSettings = field(default_factory=ArchSettings)
    ranking: RankingSettings = field(default_factory=lambda: RankingSettings(candidates=100, batches=1, finalists=1))
    per_cell: bool = True


class Ranked:
    """The cell that the last ranking selected; None before the first."""

    def __init__(self, settings: RankingSettings) -> None:
        self.settings = settings
        self.scores: Logits | None = None

    def end_epoch(self, searcher: Bilevel, epoch: int) -> None:
        """Rank cells drawn by the logits, if it is due."""
        network, resources = searcher.supernet, searcher.resources
        host = {name: values.double().cpu() for name, values in searcher.logits().items()}
        found = rank_after(network, resources, epoch, lambda i: sample(resources, host, i), self.settings)
        self.scores = self.scores if found is None else found

    def select(self, _logits: Logits) -> Logits | None:
        return self.scores

    def state_dict(self) -> dict[str, Any]:
        return {"scores": self.scores}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scores = state["scores"]


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""
    ranked = Ranked(settings.ranking)

    def weight_choices(searcher: Bilevel, logits: Logits, _batches: StepBatches) -> Choices:
        cells = searcher.supernet.cells if settings.per_cell else 1
        hot = uniform(searcher.supernet, resources, "cell", searcher.steps, cells)
        return as_choices(hot, next(iter(logits.values())))

    recipe = Recipe(
        weight_choices=weight_choices,
        order=weights_first,
        end_epoch=ranked.end_epoch,
        select=ranked.select,
        memory=ranked,
        hessian_of="validation cross-entropy through the softmax relaxation, weights trained on discrete cells",
    )
    return Bilevel(recipe, settings.weights, settings.arch, resources)


def sample(resources: Resources, logits: Logits, number: int) -> KHot:
    """Return a cell a replica, drawn from the softmax of its logits on the host."""
    noise = _gumbel.gumbel(logits, resources.stream("candidate", number), 1)
    order = _gumbel.ranked(logits, noise)
    return {g.name: _gumbel.first(order[g.name], g.keep).double().numpy() for g in resources.groups}


METHOD = Method(
    "setn",
    Settings,
    build,
    "Dong and Yang (2019), One-Shot Neural Architecture Search via Self-Evaluated Template Network",
    passes_per_step=1.4,
    evaluated=lambda settings, extent: _ranking.evaluated(settings.ranking, extent),
    published=Published(100, "NATS-Bench, weight sharing"),
)
