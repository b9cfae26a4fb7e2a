"""Shapley-NAS: operations are weighed by their Shapley values, not by gradients.

Source: Xiao, Wang, Zhu, Zhou, Lu (2022), Shapley-NAS: Discovering Operation Contribution for Neural Architecture
Search, https://arxiv.org/abs/2206.09811, section 3.

One step: the weight step of DARTS under softmax(α). α has no gradient. At the end of every epoch after the warm-up:
  1. every option of every row is a player; a coalition is worth the validation accuracy of the supernet without the
     others, with the weights of softmax(α) as they are. `permutations` times, on a further batch each, all players
     leave in a random order, until the accuracy falls below `truncation` times that of the whole (`_shapley`).
  2. s = mean − standard deviation over the permutations, standardised over the table (group) of each replica.
  3. m ← momentum·m + (1 − momentum)·s;  α ← α + step·m.
Discretise: the highest logits of each row.

Accuracies are read from the device: they decide who counts, and are the method's only signal. Sure: warm-up of 25 of
100 epochs, 10 permutations, .5, mean − deviation, .8, .1, batches of 256. Our reading: a permutation is of all players;
who leaves after the truncation counts zero; standardised by table, since tables of inputs are on another scale; the
momentum is a running mean. Validation images are un-augmented, and as many as an evaluation batch of the benchmark.
`none` is no option, as in DARTS' space: its leaving changes nothing, so its value is exactly zero, which is above the
mean − deviation of whatever matters in some orders only, and every row would end as `none`.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from searchers import _relax, _shapley
from searchers._bilevel import Bilevel, Recipe
from searchers._exclude import columns, softmax_without
from searchers._optim import ArchSettings, WeightSettings
from searchers._projection import without
from searchers.base import DataPolicy, Group, Resources, StepBatches, StepLosses
from searchers.entry import FORWARD, Extent, Method, Passes


@dataclass(frozen=True)
class Settings:
    """The paper's settings.

    Attributes:
        permutations: random orders an epoch.
        truncation: share of the whole supernet's accuracy below which nobody counts any more; 0: everybody counts.
        momentum: share of the running mean that stays.
        step: logits move by this times the running mean.
        warm_up: share of the epochs in which α stays.
        batch_size: None uses the benchmark's.
        none: whether `none` is an option where the space has it.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    permutations: int = 10
    truncation: float = 0.5
    momentum: float = 0.8
    step: float = 0.1
    warm_up: float = 0.25
    batch_size: int | None = 256
    none: bool = False

    def __post_init__(self) -> None:
        if self.permutations < 1:
            raise ValueError(f"expected at least 1 permutation, got {self.permutations}")
        if not (0 <= self.momentum < 1 and 0 <= self.warm_up <= 1):
            raise ValueError(
                f"expected a momentum in [0, 1) and a warm_up in [0, 1], got {self.momentum} and {self.warm_up}"
            )


class Contributions:
    """Estimates the values of all options after an epoch, and remembers their running mean."""

    def __init__(self, settings: Settings, resources: Resources) -> None:
        self.settings, self.groups = settings, resources.groups
        self.left_out = {} if settings.none else columns(resources.groups, "none")
        self.mean = {group.name: np.zeros((resources.replicas, *group.shape)) for group in resources.groups}

    def end_epoch(self, searcher: Bilevel, epoch: int) -> None:
        if searcher.moment().progress < self.settings.warm_up:
            return
        first = epoch * self.settings.permutations
        shares = np.stack([self.sample(searcher, first + number) for number in range(self.settings.permutations)])
        stays = self.settings.momentum
        for name, value in self._tables(_shapley.cautious(shares)).items():
            scored = _shapley.standardised(value, self.left_out.get(name))
            self.mean[name] = stays * self.mean[name] + (1 - stays) * scored
        logits = searcher.logits()
        moves = {name: torch.as_tensor(self.settings.step * mean) for name, mean in self.mean.items()}
        searcher.assign({name: value + moves[name].to(value) for name, value in logits.items()})

    def sample(self, searcher: Bilevel, number: int) -> _shapley.Shares:
        """Return what each option takes along in one random order, on one validation batch."""
        mixed, resources = searcher.relax(searcher.logits()), searcher.resources
        batch = range(number, number + 1)

        def accuracy(left: _shapley.Coalition) -> np.ndarray:
            found = resources.evaluate(searcher.supernet, without(mixed, self._tables(left)), "val", batch)
            return found.accuracy.double().cpu().numpy()

        players = sum(_size(group) for group in self.groups)
        streams = resources.stream("shapley", number)
        orders = np.stack([torch.randperm(players, generator=stream).numpy() for stream in streams])
        return _shapley.leave_in_order(accuracy, orders, self.settings.truncation)

    def _tables(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Cut players into the tables of the groups."""
        parts = np.split(flat, np.cumsum([_size(group) for group in self.groups])[:-1], axis=1)
        return {g.name: part.reshape(len(flat), *g.shape) for g, part in zip(self.groups, parts, strict=True)}

    def state_dict(self) -> dict[str, Tensor]:
        return {name: torch.from_numpy(mean.copy()) for name, mean in self.mean.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean = {name: saved.double().cpu().numpy().copy() for name, saved in state.items()}


def _size(group: Group) -> int:
    return group.decisions * len(group.options)


def weights_only(searcher: Bilevel, batches: StepBatches) -> StepLosses:
    return StepLosses(searcher.weight_step(batches), None)


def policy(settings: Settings) -> DataPolicy:
    """Train weights on one half; the other is for evaluations."""
    return DataPolicy(val_batches=0, batch_size=lambda _epoch, base: settings.batch_size or base)


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""
    values = Contributions(settings, resources)
    recipe = Recipe(
        relax=_relax.softmax if settings.none else softmax_without(resources.groups, "none"),
        excluded=() if settings.none else ("none",),
        order=weights_only,
        end_epoch=values.end_epoch,
        memory=values,
        policy=policy(settings),
    )
    return Bilevel(recipe, settings.weights, ArchSettings(), resources)


def evaluated(settings: Settings, extent: Extent) -> tuple[Passes, ...]:
    """Return the cost of all permutations, none of which is cut short."""
    epochs = sum(epoch / extent.epochs >= settings.warm_up for epoch in range(extent.epochs))
    coalitions = 1 + sum(_size(group) for group in extent.groups)
    return (Passes(epochs * settings.permutations * coalitions * FORWARD, extent.evaluation),)


METHOD = Method(
    "shapley_nas",
    Settings,
    build,
    "Xiao et al. (2022), Shapley-NAS",
    passes_per_step=1.0,
    policy=policy,
    evaluated=evaluated,
    steady=True,
)
