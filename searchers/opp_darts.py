"""OPP-DARTS: operations join the search one after another, the one that the loss likes least first.

Source: Zhu, Li, Liu, Wang (2021), Operation-level Progressive Differentiable Architecture Search,
https://arxiv.org/abs/2302.05632; schedule and choice as in the authors' code.

At the start every row has the same one operation with weights: that whose network, not trained yet, has the largest
loss. Every second epoch of 50 the same option joins in all rows: of those that are left the one with which the network
has the largest loss on the training half; skips come last. Its logits are the 1e-3·N(0, 1) they were drawn as; those of
the other options and the weights stay. Both optimisers and the cosine start anew, over the epochs that are left.
One step: as DARTS, first order, over the options that have joined.
Discretise: the highest logits of each row.

Losses are read on the host: they decide what is computed. Sure: the largest loss (hard operations first; `choice` has
the smallest), skips last, optimisers anew. Our reading: the loss is that of un-augmented images, each replica chooses
for itself, and in NAS-Bench-1Shot1, which has no skip, the max-pool is last. Rows that choose inputs have all their
options from the start. `none` joins like any other option of NAS-Bench-201.
While a row has one option, λ is the curvature by rows of inputs only, and on NAS-Bench-201 it is zero.
"""

from dataclasses import dataclass, field
from typing import Literal, final

import numpy as np
import torch
from jaxtyping import Bool, Float

from searchers._bilevel import Bilevel, Recipe
from searchers._exclude import Alive, mixture
from searchers._optim import ArchSettings, WeightSettings, restore
from searchers._progressive import Progressive
from searchers._staged import Shorter
from searchers.base import DataPolicy, Horizon, Resources
from searchers.entry import FORWARD, Extent, Method, Passes, Published


@dataclass(frozen=True)
class Settings:
    """The authors' settings.

    Attributes:
        add_every: share of the epochs from one addition to the next; 0: all options from the start, which is DARTS.
        choice: "max" adds the option of the largest loss, "min" that of the smallest.
        last: options that join after all others.
        batch_size: None uses the benchmark's.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)
    add_every: float = 2 / 50
    choice: Literal["max", "min"] = "max"
    last: tuple[str, ...] = ("skip_connect", "maxpool3x3")
    batch_size: int | None = 64

    def __post_init__(self) -> None:
        if not 0 <= self.add_every <= 1:
            raise ValueError(f"expected add_every, a share of the epochs, in [0, 1], got {self.add_every}")


def policy(settings: Settings) -> DataPolicy:
    """Train on halves, at the method's own batch size."""
    return DataPolicy(batch_size=lambda _epoch, base: settings.batch_size or base)


@final
class Growth:
    """One more operation a stage; stage 0 has one."""

    def __init__(self, settings: Settings, resources: Resources) -> None:
        self.settings, self.resources = settings, resources
        self.alive = Alive(resources.groups, resources.replicas)
        (self.ops,) = (group for group in resources.groups if group.kind == "op")
        self.last = np.array([option in settings.last for option in self.ops.options])

    def stage(self, epoch: int) -> int:
        rounds = len(self.ops.options) - 1
        every = self.settings.add_every * self.resources.horizon.epochs
        return rounds if every == 0 else min(rounds, int(epoch / every + 1e-9))

    def searcher(self, _stage: int, first: int) -> Bilevel:
        recipe = Recipe(
            relax=self.alive.relax,
            arch_moves=lambda searcher: self.alive.moves(next(iter(searcher.logits().values()))),
            memory=self.alive,
            select=self.alive.select,
            hessian_of="validation cross-entropy through the softmax over the options that have joined",
            policy=policy(self.settings),
        )
        left = Horizon(self.resources.horizon.epochs - first)
        return Bilevel(recipe, self.settings.weights, self.settings.arch, Shorter(self.resources, left))

    def enter(self, stage: int, new: Bilevel, old: Bilevel | None) -> None:
        if old is None:
            self.alive.masks[self.ops.name][:] = stage == len(self.ops.options) - 1
        else:
            restore(new.parameters, old.frozen())
            new.assign(old.logits())
        while self._joined().sum(1).max() <= stage:
            self._add(new)

    def _joined(self) -> Bool[np.ndarray, "replicas options"]:
        return self.alive.masks[self.ops.name][:, 0]

    def _add(self, searcher: Bilevel) -> None:
        """Let one option of each replica join."""
        losses = self._losses(searcher)
        wanted = losses if self.settings.choice == "max" else -losses
        for replica, option in enumerate(np.where(self._candidates(), wanted, -np.inf).argmax(1)):
            self.alive.masks[self.ops.name][replica, :, option] = True

    def _candidates(self) -> Bool[np.ndarray, "replicas options"]:
        """Return which options may join next: first one with weights, then others, those in `last` in the end."""
        joined = self._joined()
        if not joined.any():
            return np.broadcast_to(np.array(self.ops.parametric, bool), joined.shape)
        early = ~joined & ~self.last
        return np.where(early.any(1, keepdims=True), early, ~joined)

    def _losses(self, searcher: Bilevel) -> Float[np.ndarray, "replicas options"]:
        """Return the training loss with each option added to those that have joined; zero where none is asked for."""
        found = torch.zeros(self._joined().shape, dtype=torch.float64)
        candidates = self._candidates()
        for option in np.flatnonzero(candidates.any(0)) if (candidates.sum(1) > 1).any() else ():
            trial = {name: mask.copy() for name, mask in self.alive.masks.items()}
            trial[self.ops.name][:, :, option] = True
            choices = mixture(searcher.logits(), trial)
            found[:, option] = self.resources.evaluate(searcher.supernet, choices, "train", None).loss.cpu().double()
        return found.numpy()


def build(settings: Settings, resources: Resources) -> Progressive:
    """Return the searcher."""
    return Progressive(Growth(settings, resources))


def evaluated(_settings: Settings, extent: Extent) -> tuple[Passes, ...]:
    """Return the cost of rating what may join, every option that has not in each round."""
    options = max(len(group.options) for group in extent.groups if group.kind == "op")
    return (Passes(options * (options - 1) / 2 * extent.batches * FORWARD, extent.evaluation),)


METHOD = Method(
    "opp_darts",
    Settings,
    build,
    "Zhu et al. (2021), OPP-DARTS",
    passes_per_step=2.0,
    policy=policy,
    evaluated=evaluated,
    published=Published(50, "the authors' code, DARTS' space"),
    steady=True,
)
