"""P-DARTS: three searches, each deeper than the last, over the operations that the last one liked best.

Source: Chen, Xie, Wu, Tian (2019), Progressive Differentiable Architecture Search: Bridging the Depth Gap between
Search and Evaluation, https://arxiv.org/abs/1904.12760, sections 3.2 and 3.3; settings of the authors' code.

Each stage has a third of the epochs, and a network, logits, optimisers and learning rate of its own, all anew. Its rows
of operations have the options with the highest logits of the last stage; the first has all.
One step, in epoch e of the E of a stage, with p = p0·(E − e − 1)/E in the first two fifths of them, and after those
p0·exp(−.2·(25·e/E − 10)):
  1. α, not in the first two fifths: as DARTS, first order, over the options that are left, skips dropping out with
     probability p; clip to norm 5; Adam(6e-4).
  2. w: as DARTS, skips dropping out in other draws.
Discretise: the highest logits of the options that are left, without `none`; `skip_cap` takes the weakest skips away.

Sure: stages, operations kept (8, 5, 3 of 8, here the same shares: 5, 3, 2 of 5 and 3, 2, 1 of 3), p. Depth: 5, 11, 17
cells there, here shares of the benchmark's cells a stage: 1, 3, 5 of 5, 1, 2, 3 of 3; one of one throughout. The stages
of a network have the same initial weights where they have the same depth. Our reading: dropping out multiplies the
weight of an operation by 0 or 1/(1 − p), for a whole batch, in every cell and row by itself (the code's dropout is one
of pixels); in NAS-Bench-1Shot1, which has no skip, the max-pool drops out. Rows that choose inputs keep all options.
A budget of fewer epochs than stages does not reach the last. Which options stay is read on the host.
"""

import math
from dataclasses import dataclass, field
from typing import final

import numpy as np

from searchers import _relax, _skips
from searchers._bilevel import ArchGradient, Bilevel, Recipe, by_logits, clipped
from searchers._exclude import Alive, select_without
from searchers._optim import ArchSettings, WeightSettings
from searchers._progressive import Progressive
from searchers._staged import Shorter
from searchers.base import Choices, DataPolicy, Horizon, Logits, Resources, StepBatches, SupernetOptions
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """The authors' settings for CIFAR-10, a value a stage.

    Attributes:
        keep: share of the operations that a stage searches.
        depth: share of the benchmark's cells.
        dropout: p0.
        dropped: operations that drop out.
        warm_up: share of a stage's epochs in which α stays.
        arch_clip: bound on the norm of the gradient by all logits; None does not clip.
        skip_cap: skips that the cell may have; None: any number. The paper's is 2 of 8 edges.
        batch_size: None uses the benchmark's.
    """

    weights: WeightSettings = field(default_factory=lambda: WeightSettings(lr_min=0.0))
    arch: ArchSettings = field(default_factory=lambda: ArchSettings(lr=6e-4))
    keep: tuple[float, ...] = (1.0, 5 / 8, 3 / 8)
    depth: tuple[float, ...] = (1 / 5, 3 / 5, 1.0)
    dropout: tuple[float, ...] = (0.0, 0.4, 0.7)
    dropped: tuple[str, ...] = ("skip_connect", "maxpool3x3")
    warm_up: float = 10 / 25
    arch_clip: float | None = 5.0
    skip_cap: int | None = None
    batch_size: int | None = 96

    def __post_init__(self) -> None:
        if not len(self.keep) == len(self.depth) == len(self.dropout) > 0:
            raise ValueError(f"expected keep, depth and dropout of every stage, got {self}")
        if self.keep[0] != 1 or list(self.keep) != sorted(self.keep, reverse=True) or self.keep[-1] <= 0:
            raise ValueError(f"expected shares that fall from 1 and stay positive in keep, got {self.keep}")
        if not all(0 <= p < 1 for p in self.dropout) or not 0 <= self.warm_up <= 1:
            raise ValueError(f"expected dropout in [0, 1) and warm_up in [0, 1], got {self.dropout}, {self.warm_up}")


def policy(settings: Settings) -> DataPolicy:
    """Train on halves, at the method's own batch size."""
    return DataPolicy(batch_size=lambda _epoch, base: settings.batch_size or base)


@final
class Stages:
    """Deeper networks over fewer operations."""

    def __init__(self, settings: Settings, resources: Resources) -> None:
        self.settings, self.resources = settings, resources
        self.alive = Alive(resources.groups, resources.replicas)
        self.without_none = select_without(resources.groups, "none")
        self.skips = _skips.places(resources.groups, ["skip_connect"])
        self.dropping = _skips.places(resources.groups, settings.dropped)
        self.count = len(settings.keep)

    def stage(self, epoch: int) -> int:
        return epoch * self.count // self.resources.horizon.epochs

    def searcher(self, stage: int, first: int) -> Bilevel:
        settings, end = self.settings, -(-(stage + 1) * self.resources.horizon.epochs // self.count)

        def gradient(searcher: Bilevel, batches: StepBatches) -> ArchGradient:
            leaves = searcher.leaves()
            choices = self.dropped(searcher, stage, "arch", leaves)
            losses = searcher.loss_by_logits(batches.val[0], choices)
            return clipped(by_logits(losses, leaves), settings.arch_clip)

        recipe = Recipe(
            relax=self.alive.relax,
            weight_choices=lambda searcher, logits, _batches: self.dropped(searcher, stage, "weights", logits),
            arch_gradient=gradient,
            init=lambda groups, _, like: _relax.normal_logits(groups, self.resources.stream("logits", stage), like),
            arch_moves=lambda searcher: self.alive.moves(next(iter(searcher.logits().values()))),
            memory=self.alive,
            select=self.select,
            excluded=("none",),
            hessian_of="validation cross-entropy through the softmax over the operations that are left",
            warm_up=settings.warm_up,
            policy=policy(settings),
            options=SupernetOptions(depth=settings.depth[stage]),
        )
        return Bilevel(recipe, settings.weights, settings.arch, Shorter(self.resources, Horizon(end - first)))

    def enter(self, stage: int, _new: Bilevel, old: Bilevel | None) -> None:
        """Leave out all but the operations with the highest logits of the last stage."""
        if old is None:
            return
        scores = old.recipe.relax(old.logits()).weights
        for group in (group for group in self.resources.groups if group.kind == "op"):
            most = max(group.keep, round(self.settings.keep[stage] * len(group.options)))
            order = np.argsort(-scores[group.name][0].cpu().numpy(), axis=-1, kind="stable")[..., :most]
            for replica, decision in np.ndindex(order.shape[:2]):
                self.alive.keep(replica, group.name, decision, order[replica, decision].tolist())

    def dropped(self, searcher: Bilevel, stage: int, name: str, logits: Logits) -> Choices:
        """Return the mixing weights of a step, in which skips drop out."""
        p = probability(self.settings, searcher, stage)
        streams = searcher.streams(f"skip_dropout/{name}/{stage}")
        return _skips.drop(self.alive.relax(logits), self.dropping, searcher.supernet.cells, streams, p)

    def select(self, logits: Logits) -> Logits:
        scores = self.without_none(logits)
        if self.settings.skip_cap is not None:
            left = self.alive.select(scores)
            shares = {name: weights[0] for name, weights in self.alive.relax(logits).weights.items()}
            scores = _skips.capped(left, self.skips, self.settings.skip_cap, shares)
        return self.alive.select(scores)


def probability(settings: Settings, searcher: Bilevel, stage: int) -> float:
    """Return with which probability skips drop out in an epoch of a stage."""
    progress, epochs = searcher.moment().progress, searcher.resources.horizon.epochs
    if progress < settings.warm_up:
        return settings.dropout[stage] * (epochs - searcher.epoch - 1) / epochs
    return settings.dropout[stage] * math.exp(-0.2 * 25 * (progress - settings.warm_up))


def build(settings: Settings, resources: Resources) -> Progressive:
    """Return the searcher."""
    return Progressive(Stages(settings, resources))


METHOD = Method(
    "pdarts",
    Settings,
    build,
    "Chen et al. (2019), P-DARTS",
    passes_per_step=1.7,
    policy=policy,
    published=Published(75, "three stages of 25, the authors' code, DARTS' space"),
    networks=lambda settings: tuple(SupernetOptions(depth=depth) for depth in settings.depth),
    steady=True,
)
