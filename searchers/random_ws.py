"""Random search with weight sharing.

Source: Li and Talwalkar (2019), Random Search and Reproducibility for Neural Architecture Search,
https://arxiv.org/abs/1902.07638, section 3.3; protocol of Zela et al. (2020), NAS-Bench-1Shot1, for its spaces.

One step: a uniform discrete cell, and SGD on the weights through it (`_paths`), clipped to norm 0.25.
After an epoch (or the last one only): 1000 random cells on 10 validation batches each, the best 5 on the whole
validation half, the best of these is selected.
There are no logits, so λ does not exist.

Sure: uniform cells, weights 1, clipping, numbers of cells, batches and finalists. Our reading: batches of the ranking
are un-augmented and as large as the benchmark's evaluations (the scripts' batch size is 64); a cell that cannot carry a
signal is drawn again (possible only where an option is `none`; published code redraws whenever a node receives nothing,
which is stricter).
"""

from dataclasses import dataclass, field

from searchers import _ranking
from searchers._optim import WeightSettings
from searchers._paths import PathRecipe, Paths, rank_uniform, weights_only
from searchers._ranking import RankingSettings
from searchers.base import DataPolicy, Resources
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """Settings of NAS-Bench-1Shot1's random search with weight sharing.

    Attributes:
        batch_size: None uses the benchmark's.
        per_cell: true draws another cell for every cell of the network while training (NATS-Bench).
    """

    weights: WeightSettings = field(default_factory=lambda: WeightSettings(clip=0.25))
    ranking: RankingSettings = field(default_factory=RankingSettings)
    batch_size: int | None = 64
    per_cell: bool = False


def policy(settings: Settings) -> DataPolicy:
    return weights_only(settings.batch_size)


def build(settings: Settings, resources: Resources) -> Paths:
    """Return the searcher."""
    recipe = PathRecipe(
        no_curvature="random search with weight sharing has no architecture logits",
        policy=policy(settings),
        end_epoch=rank_uniform(settings.ranking),
        cell=lambda searcher: searcher.uniform(
            "cell", searcher.steps, searcher.supernet.cells if settings.per_cell else 1
        ),
    )
    return Paths(recipe, settings.weights, resources)


METHOD = Method(
    "random_ws",
    Settings,
    build,
    "Li and Talwalkar (2019), Random search with weight sharing",
    passes_per_step=0.5,
    policy=policy,
    evaluated=lambda settings, extent: _ranking.evaluated(settings.ranking, extent),
    published=Published(50, "NAS-Bench-1Shot1's code, its default"),
)
