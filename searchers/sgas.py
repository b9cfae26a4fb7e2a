"""SGAS: rows are decided one after another during the search, the surest first.

Source: Li, Qian, Delgadillo, Müller, Thabet, Ghanem (2020), SGAS: Sequential Greedy Architecture Search,
https://arxiv.org/abs/1912.00195, equations 2-7 and algorithm 1.

One step is DARTS', over the rows that are not decided. At the end of an epoch in which a decision is due, for each
replica and with P = softmax(α) of a row, K options besides `none`, and p those options' shares of their sum:
  1. importance Σ_{o≠none} P; certainty 1 − H(p)/log K; for criterion 2 also stability, the mean of Σ min(p, p') over
     the p' of the last epochs.
  2. each indicator is scaled to [0, 1] over all rows of all tables; the score of a row is their product.
  3. the undecided row of the highest score keeps its highest options but `none`; its logits stay from then on, its kept
     options have weight 1, and the others are not computed.
Discretise: the decisions; rows that are not decided yet, by their highest logits but `none`.

Scores are read from the device after an epoch, since they decide what is computed. Published schedule: after epoch 9 of
15 + 5·(rows − 1), then every 5; here it is scaled to the budget. Sure: indicators, product, schedule. Our reading: an
indicator that is the same for all rows counts 1; rows of inputs are decided like the others and keep as many options as
the cell needs, though certainty is that of one option: two inputs with half of a row each do not count as sure, one
with all of it does; ties go to the first row. Not done: the batch grows by 8 with every decision there, here it is the
same.
"""

from dataclasses import dataclass, field

from searchers._bilevel import Bilevel, Recipe
from searchers._decisions import Decisions, Schedule
from searchers._exclude import select_without
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import Resources
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """Criterion 1: importance and certainty."""

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)
    schedule: Schedule = field(default_factory=Schedule)


@dataclass(frozen=True)
class StableSettings:
    """Criterion 2: importance, certainty and stability over the last `history` epochs."""

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)
    schedule: Schedule = field(default_factory=Schedule)
    history: int = 4


def build(settings: Settings | StableSettings, resources: Resources) -> Bilevel:
    """Return the searcher."""
    history = settings.history if isinstance(settings, StableSettings) else 0
    decisions = Decisions(resources.groups, resources.replicas, settings.schedule, history)
    recipe = Recipe(
        relax=decisions.frozen.relax,
        arch_moves=lambda searcher: decisions.frozen.moves(next(iter(searcher.logits().values()))),
        end_epoch=decisions.end_epoch,
        memory=decisions,
        select=decisions.frozen.scores(select_without(resources.groups, "none")),
        excluded=("none",),
        hessian_of="validation cross-entropy through the softmax relaxation of the rows that are not decided",
    )
    return Bilevel(recipe, settings.weights, settings.arch, resources)


PUBLISHED = Published(40, "the authors' schedule for the six edges of NAS-Bench-201: 9 + 5·5 + 6")

METHOD = Method(
    "sgas",
    Settings,
    build,
    "Li et al. (2020), SGAS, criterion 1",
    passes_per_step=2.0,
    published=PUBLISHED,
    steady=True,
)
METHOD_2 = Method(
    "sgas_2",
    StableSettings,
    build,
    "Li et al. (2020), SGAS, criterion 2",
    passes_per_step=2.0,
    published=PUBLISHED,
    steady=True,
)
