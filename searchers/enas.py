"""ENAS: a controller samples the paths that train the weights, and learns from their validation accuracy.

Source: Pham, Guan, Zoph, Le, Dean (2018), Efficient Neural Architecture Search via Parameter Sharing,
https://arxiv.org/abs/1802.03268, section 2; controller and schedule of NAS-Bench-1Shot1's scripts (Zela et al. 2020).
The variant of NATS-Bench (Dong et al. 2021) is `bench/presets.py`'s for nb201.

One step: a cell drawn from the controller, and SGD on the weights through it (`_paths`), clipped to norm 0.25.
After an epoch, `reinforce.steps` times:
  1. draw cells c from the controller π; R = accuracy (per cent) of c on one validation batch + 1e-4·entropy of π.
  2. b ← .99 b + .01 R, one sample after the other; b starts at 0.
  3. π: −mean (R − b) ∇log π(c); Adam.
Then (or after the last epoch only) 1000 cells drawn from π, each on one validation batch; the best is selected.

Drawing is done on the host, where the controller lives; accuracies are read from the device. Sure: LSTM of 64, T = 5,
bounds, the reading of several kept options as a mean, the lag of operations, rewards, baseline, rates; both oddities
are settings. Our reading: a linear head a group of decisions instead of attention over earlier nodes; the next input is
the mean embedding of what was kept; b moves before it is subtracted, which scales the gradient by .99; rewards from
un-augmented batches as large as the benchmark's evaluations (the scripts' batch size is 64), and ranking on the
validation half (the scripts rank on test images). The scripts advance the cosine every batch; here it is every epoch. A
cell that carries no signal is not drawn again, it earns what it earns.
The controller has no logits of the space, so λ does not exist.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from searchers import _ranking
from searchers._controller import Controller, ControllerSettings, Walk
from searchers._optim import Adam, ArchSettings, WeightSettings, clip, restore
from searchers._paths import PathRecipe, Paths, weights_only
from searchers._ranking import KHot, RankingSettings, accuracies, rank_after
from searchers.base import DataPolicy, Logits, Resources
from searchers.entry import DISCRETE, FORWARD, Extent, Method, Passes, Published


@dataclass(frozen=True)
class Reinforce:
    """Training of the controller; defaults of NAS-Bench-1Shot1's scripts.

    Attributes:
        steps: after an epoch.
        samples: cells a step.
        decay: of the baseline.
        unit: reward of an accuracy of 1.
        entropy: weight of the entropy in the reward; it has no gradient.
        clip: bound on the gradient's norm.
    """

    steps: int = 300
    samples: int = 1
    adam: ArchSettings = field(default_factory=lambda: ArchSettings(3.5e-4, (0.1, 0.999), 0.0, 1e-3))
    decay: float = 0.99
    unit: float = 100.0
    entropy: float = 1e-4
    clip: float | None = None

    def __post_init__(self) -> None:
        if min(self.steps, self.samples) < 1 or not 0 <= self.decay < 1:
            raise ValueError(f"expected steps and samples of at least 1 and a decay in [0, 1), got {self}")


@dataclass(frozen=True)
class Settings:
    """Settings of NAS-Bench-1Shot1's scripts.

    Attributes:
        batch_size: None uses the benchmark's.
    """

    weights: WeightSettings = field(default_factory=lambda: WeightSettings(weight_decay=1e-4, clip=0.25))
    controller: ControllerSettings = field(default_factory=ControllerSettings)
    reinforce: Reinforce = field(default_factory=Reinforce)
    ranking: RankingSettings = field(default_factory=lambda: RankingSettings(1000, batches=1, finalists=1))
    batch_size: int | None = 64


class Agent:
    """The controller, its optimiser, and the baseline of every replica."""

    def __init__(self, settings: Settings, resources: Resources) -> None:
        self.settings, self.resources = settings.reinforce, resources
        self.controller = Controller(settings.controller, resources.groups, resources.stream("controller", 0))
        self.adam = Adam(self.controller.parameters, self.settings.adam)
        self.baseline = torch.zeros(resources.replicas, dtype=torch.float64)

    def cell(self, name: str, step: int) -> KHot:
        """Return one cell a replica."""
        with torch.no_grad():
            walk = self.controller.draw(self.controller.parameters, self.resources.stream(name, step), 1)
        return self.controller.cells(walk, 0)

    def train(self, searcher: Paths, epoch: int) -> None:
        """Take the steps that follow an epoch."""
        for number in range(epoch * self.settings.steps, (epoch + 1) * self.settings.steps):
            leaves = {name: value.detach().requires_grad_() for name, value in self.controller.parameters.items()}
            walk = self.controller.draw(leaves, self.resources.stream("reinforce", number), self.settings.samples)
            self.learn(leaves, walk, self.accuracy(searcher, walk, number))

    def accuracy(self, searcher: Paths, walk: Walk, number: int) -> Float[Tensor, "replicas samples"]:
        """Return the accuracy of every cell, each on a validation batch of its own."""
        cells = [self.controller.cells(walk, i) for i in range(self.settings.samples)]
        first = number * self.settings.samples
        return torch.from_numpy(accuracies(searcher.supernet, self.resources, cells, 1, first))

    def learn(self, leaves: dict[str, Tensor], walk: Walk, accuracy: Float[Tensor, "replicas samples"]) -> None:
        """Take one step along the gradient of the expected reward."""
        rewards = self.settings.unit * accuracy + self.settings.entropy * walk.entropy.detach()
        loss = -(self.advantage(rewards) * walk.log_prob).mean(1).sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        flat = clip(self.adam.layout.flatten(dict(zip(leaves, gradients, strict=True))), self.settings.clip)
        self.adam.step(self.adam.layout.split(flat), self.settings.adam.lr)

    def advantage(self, rewards: Float[Tensor, "replicas samples"]) -> Float[Tensor, "replicas samples"]:
        """Move the baseline over the samples; return how much each of them is above it."""
        found = []
        for reward in rewards.unbind(1):
            self.baseline = self.settings.decay * self.baseline + (1 - self.settings.decay) * reward
            found.append(reward - self.baseline)
        return torch.stack(found, 1)

    def state_dict(self) -> dict[str, Any]:
        return {"controller": self.controller.parameters, "adam": self.adam.state_dict(), "baseline": self.baseline}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        restore(self.controller.parameters, state["controller"])
        self.adam.load_state_dict(state["adam"])
        self.baseline = state["baseline"].to(self.baseline)


def policy(settings: Settings) -> DataPolicy:
    return weights_only(settings.batch_size)


def build(settings: Settings, resources: Resources) -> Paths:
    """Return the searcher."""
    agent = Agent(settings, resources)

    def end_epoch(searcher: Paths, epoch: int) -> Logits | None:
        agent.train(searcher, epoch)
        return rank_after(searcher.supernet, resources, epoch, lambda i: agent.cell("candidate", i), settings.ranking)

    recipe = PathRecipe(
        no_curvature="the controller of ENAS has no logits of the space",
        policy=policy(settings),
        end_epoch=end_epoch,
        cell=lambda searcher: agent.cell("cell", searcher.steps),
        memory=agent,
    )
    return Paths(recipe, settings.weights, resources)


def evaluated(settings: Settings, extent: Extent) -> tuple[Passes, ...]:
    """Return the cost of the controller's rewards and of the rankings."""
    rewards = extent.epochs * settings.reinforce.steps * settings.reinforce.samples
    ranked = _ranking.evaluated(settings.ranking, extent)
    return (Passes(rewards * FORWARD, extent.evaluation, DISCRETE), *ranked)


METHOD = Method(
    "enas",
    Settings,
    build,
    "Pham et al. (2018), Efficient Neural Architecture Search via Parameter Sharing",
    passes_per_step=0.5,
    policy=policy,
    evaluated=evaluated,
    published=Published(50, "NAS-Bench-1Shot1's code, its default"),
)
