"""Pi-NAS, reinterpreted for supervised search: two disjoint paths that agree with each other's teacher.

Source: Peng, Zhang, Li, Wang, Liang, Lin (2021), Pi-NAS: Improving Neural Architecture Search by Reducing
Supernet Training Consistency Shift, https://arxiv.org/abs/2108.09671: cross-path learning and a mean teacher. There
both train without labels, by a contrastive loss on ImageNet; here the loss is supervised, so no number of the paper
applies.

One step, with teacher weights v that start as w:
  1. draw a uniform cell a, and b uniform among those that share as few options with it as possible in every decision:
     none, unless the decision keeps more than half of its options. Cells that carry no signal are drawn again.
  2. v ← m·v + (1 − m)·w in the weights that a or b uses.
  3. w: L = CE(a) + CE(b) + μ·[KL(q_b ‖ p_a) + KL(q_a ‖ p_b)] on a training batch, p of the network with w, q with v
     and without gradient; clip per replica; SGD. What neither path uses does not move.
After an epoch (or the last one only): the ranking of random search with weight sharing.

Sure: two disjoint paths, teacher of the used blocks before the keys, m = .999, keys of the other path. Our reading: KL
between class distributions in place of the contrastive loss, μ = 1, SGD of random search with weight sharing; the loss
recorded is the mean cross-entropy of the paths. With one path there is no other to agree with. There are no logits, so
λ does not exist.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from searchers import _ranking
from searchers._optim import WeightSettings
from searchers._paths import PathRecipe, Paths, alive, rank_uniform, weights_only
from searchers._ranking import KHot, RankingSettings
from searchers._relax import cross_entropy
from searchers._touched import touched
from searchers.base import Batch, Choices, DataPolicy, ForwardInputs, Resources
from searchers.entry import Method, Published

PerReplica = Float[Tensor, " replicas"]
Scores = Float[Tensor, "replicas n classes"]


@dataclass(frozen=True)
class Settings:
    """Two paths and the paper's momentum; the rest as random search with weight sharing.

    Attributes:
        paths: cells a step: 2, or 1 for no partner.
        momentum: m, of the teacher.
        consistency: μ, weight of the agreement.
        batch_size: None uses the benchmark's.
    """

    weights: WeightSettings = field(default_factory=lambda: WeightSettings(clip=0.25))
    ranking: RankingSettings = field(default_factory=RankingSettings)
    batch_size: int | None = 64
    paths: int = 2
    momentum: float = 0.999
    consistency: float = 1.0

    def __post_init__(self) -> None:
        if self.paths not in {1, 2} or not 0 <= self.momentum <= 1 or self.consistency < 0:
            raise ValueError(f"expected 1 or 2 paths, a momentum in [0, 1] and a consistency of at least 0, got {self}")


class Teacher:
    """The exponential mean of the weights, each over the steps that used it; None before the first step."""

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.flat: Float[Tensor, "replicas size"] | None = None

    def follow(self, searcher: Paths, used: Bool[np.ndarray, "replicas names"]) -> None:
        """Move towards the weights in what is used."""
        now = searcher.weights.layout.current(searcher.parameters).clone()
        before = now if self.flat is None else self.flat
        moved, mask = self.momentum * before + (1 - self.momentum) * now, searcher.weights.layout.spread(used)
        self.flat = moved if mask is None else torch.where(mask, moved, before)

    def state_dict(self) -> dict[str, Any]:
        return {"flat": self.flat}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.flat = state["flat"]


def policy(settings: Settings) -> DataPolicy:
    return weights_only(settings.batch_size)


def build(settings: Settings, resources: Resources) -> Paths:
    """Return the searcher."""
    teacher = Teacher(settings.momentum)
    recipe = PathRecipe(
        no_curvature="Pi-NAS has no architecture logits",
        policy=policy(settings),
        end_epoch=rank_uniform(settings.ranking),
        update=lambda searcher, batch: update(searcher, batch, teacher, settings),
        memory=teacher,
    )
    return Paths(recipe, settings.weights, resources)


def update(searcher: Paths, batch: Batch, teacher: Teacher, settings: Settings) -> PerReplica:
    """Take one step of SGD on both paths; return their mean cross-entropy before it."""
    network, names = searcher.supernet, list(searcher.parameters)
    cells = paths(searcher, settings.paths)
    used = np.logical_or.reduce([touched(network, choices, names) for choices in cells])
    teacher.follow(searcher, used)
    weights = searcher.weights.leaf()
    scores = [network(batch.images, choices, ForwardInputs(weights=weights)) for choices in cells]
    losses = torch.stack([cross_entropy(predictions, batch) for predictions in scores])
    total = losses.sum()
    if len(cells) > 1:
        agreement = [kl(keys(searcher, batch, teacher, cells[1 - i]), mine) for i, mine in enumerate(scores)]
        total = total + settings.consistency * torch.stack(agreement).sum()
    (gradient,) = torch.autograd.grad(total, [weights])
    searcher.weights.step(gradient, searcher.lr, used)
    return losses.mean(0).detach()


def keys(searcher: Paths, batch: Batch, teacher: Teacher, choices: Choices) -> Scores:
    """Return what the teacher makes of a path."""
    with torch.no_grad():
        return searcher.supernet(batch.images, choices, ForwardInputs(weights=teacher.flat))


def kl(target: Scores, scores: Scores) -> PerReplica:
    """Return KL(softmax(target) ‖ softmax(scores)) of each replica, mean over images, nats."""
    wanted, found = target.log_softmax(-1), scores.log_softmax(-1)
    return (wanted.exp() * (wanted - found)).sum(-1).mean(1)


def paths(searcher: Paths, count: int) -> list[Choices]:
    """Return the cells of a step."""
    first = searcher.uniform("cell", searcher.steps)
    return [searcher.choices(hot) for hot in [first, *([partner(searcher, first)] if count > 1 else [])]]


def partner(searcher: Paths, first: KHot) -> KHot:
    """Return a uniform cell among those that share as few options as possible with the first, by decision."""
    groups, streams = searcher.supernet.groups, searcher.resources.stream("partner", searcher.steps)

    def draw(replicas: Sequence[int]) -> KHot:
        found = {group.name: np.zeros_like(first[group.name][:, list(replicas)]) for group in groups}
        for place, replica in enumerate(replicas):
            for group in groups:
                ranks = torch.rand(group.shape, generator=streams[replica], dtype=torch.float64).numpy()
                order = (ranks + first[group.name][0, replica]).argsort(-1)[:, : group.keep]
                np.put_along_axis(found[group.name][0, place], order, 1.0, -1)
        return found

    return alive(searcher.supernet, draw)


METHOD = Method(
    "pi_nas",
    Settings,
    build,
    "Peng et al. (2021), Pi-NAS, supervised reinterpretation",
    passes_per_step=1.8,
    policy=policy,
    evaluated=lambda settings, extent: _ranking.evaluated(settings.ranking, extent),
    published=Published(100, "the authors' configuration"),
)
