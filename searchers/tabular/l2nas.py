"""L2NAS as we read it: continuous-action reinforcement learning with a quantile critic.

Source: Mills et al. (2021), L²NAS: Learning to Optimize Neural Architectures via Continuous-Action Reinforcement
Learning, https://arxiv.org/abs/2109.12425. No code was found; only the idea is sure: an actor emits one score an
option, the cell is the highest scores of every decision, and the critic is trained with the quantile loss at 0.9. All
sizes, rates and the state are our reading, and reports say so.

One query, n the number of those before it:
  1. state s: mean of the `elite` fittest cells so far as 0/1 vectors (before any: the uniform cell).
  2. action a = actor(s) + N(0, noise²), clipped to [0, 1]; with probability ε a uniform one; ε falls linearly from 1 to
     `epsilon` over `exploration` queries. The cell keeps the highest scores of every decision.
  3. from the `batch`-th query on, on `batch` entries (s, a, r) of the memory drawn with replacement, r standardised
     over it: critic, Adam on the mean of max(τu, (τ-1)u), u = r - Q(s, a);
     actor, Adam on the mean of -Q(s, actor(s)), with the new critic.
The best fitness seen is the result. There is no discount: an episode is one cell. A cell that is not in the table does
not enter the memory's statistics, its loss or the elite.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from searchers.entry import TableMethod
from searchers.tabular._encoding import Encoding
from searchers.tabular.base import Query, TableResources

Network = list[Tensor]


@dataclass(frozen=True)
class Settings:
    """Our reading.

    Attributes:
        quantile: τ of the critic.
        noise: standard deviation of the exploration around the actor.
        epsilon: share of uniform actions in the end.
        exploration: queries over which that share falls from 1.
    """

    quantile: float = 0.9
    elite: int = 64
    hidden: int = 128
    batch: int = 16
    actor_lr: float = 1e-4
    critic_lr: float = 1e-3
    noise: float = 0.1
    epsilon: float = 0.05
    exploration: int = 250

    def __post_init__(self) -> None:
        if not (0 < self.quantile < 1 and 0 <= self.epsilon <= 1):
            raise ValueError(f"expected a quantile in (0, 1) and an epsilon in [0, 1], got {self}")
        if min(self.elite, self.hidden, self.batch, self.exploration) < 1:
            raise ValueError(f"expected elite, hidden, batch and exploration of at least 1, got {self}")


class L2NAS:
    """Actor, critic and the memory of all repetitions."""

    def __init__(self, settings: Settings, resources: TableResources) -> None:
        self.settings, self.resources, self.encoding = settings, resources, Encoding(resources.groups)
        groups, hidden = resources.groups, settings.hidden
        self.size = sum(group.decisions * len(group.options) for group in groups)
        shares = [np.full(g.decisions * len(g.options), g.keep / len(g.options)) for g in groups]
        self.uniform_cell = torch.tensor(np.concatenate(shares), dtype=torch.float32)
        self.actor = network(resources, "actor", (self.size, hidden, hidden, self.size))
        self.critic = network(resources, "critic", (2 * self.size, hidden, hidden, 1))
        # Elementwise, and the losses are sums over repetitions: every repetition has an Adam of its own.
        self.actor_adam = torch.optim.Adam(self.actor, lr=settings.actor_lr)
        self.critic_adam = torch.optim.Adam(self.critic, lr=settings.critic_lr)
        self.states: list[Tensor] = []
        self.actions: list[Tensor] = []
        self.cells: list[Tensor] = []
        self.rewards: list[Tensor] = []

    def ask(self) -> Query:
        state = self._state()
        self.states.append(state)
        self.actions.append(self._action(state))
        values = self.actions[-1].double().numpy()
        scores, start = {}, 0
        for group in self.resources.groups:
            stop = start + group.decisions * len(group.options)
            scores[group.name] = values[:, start:stop].reshape(-1, *group.shape)
            start = stop
        self.cells.append(self._hot(scores))
        return Query(scores, self.resources.budgets[-1])

    def tell(self, fitness: Float[np.ndarray, " replicas"], _cost_s: Float[np.ndarray, " replicas"], /) -> None:
        self.rewards.append(torch.tensor(fitness, dtype=torch.float32))
        if len(self.rewards) >= self.settings.batch:
            self._learn()

    def _state(self) -> Float[Tensor, "replicas size"]:
        if not self.rewards:
            return self.uniform_cell.repeat(self.resources.replicas, 1)
        rewards = torch.nan_to_num(torch.stack(self.rewards, 1), nan=-torch.inf)
        best = rewards.topk(min(self.settings.elite, rewards.shape[1]), 1)
        known = best.values.isfinite()[..., None].float()
        cells = torch.stack(self.cells, 1).gather(1, best.indices[..., None].expand(-1, -1, self.size))
        count = known.sum(1)
        return torch.where(count > 0, (cells * known).sum(1) / count.clamp_min(1), self.uniform_cell)

    def _action(self, state: Float[Tensor, "replicas size"]) -> Float[Tensor, "replicas size"]:
        asked = len(self.rewards)
        draws = torch.tensor(self.resources.uniform("action", asked, 2 * self.size + 1), dtype=torch.float32)
        uniform, normal = draws[:, : self.size], draws[:, self.size : -1].clamp(1e-6, 1 - 1e-6)
        with torch.no_grad():
            own = torch.sigmoid(forward(self.actor, state[:, None])[:, 0])
        near = (own + self.settings.noise * torch.special.ndtri(normal)).clamp(0, 1)
        share = 1 - (1 - self.settings.epsilon) * min(asked / self.settings.exploration, 1.0)
        return torch.where(draws[:, -1:] < share, uniform, near)

    def _hot(self, scores: Mapping[str, np.ndarray]) -> Float[Tensor, "replicas size"]:
        parts = []
        for group in self.resources.groups:
            kept = np.argsort(-scores[group.name], axis=-1, kind="stable")[..., : group.keep]
            hot = np.zeros_like(scores[group.name])
            np.put_along_axis(hot, kept, 1.0, -1)
            parts.append(hot.reshape(len(hot), -1))
        return torch.tensor(np.concatenate(parts, 1), dtype=torch.float32)

    def _learn(self) -> None:
        rewards = torch.stack(self.rewards, 1)
        count, width = rewards.shape[1], self.settings.batch
        draws = self.resources.uniform("replay", count, width)
        picks = torch.tensor((draws * count).astype(np.int64))
        rows = torch.arange(len(picks))[:, None]
        states, actions = (torch.stack(kept, 1)[rows, picks] for kept in (self.states, self.actions))
        drawn = standardised(rewards)[rows, picks]
        errors = drawn - self._value(states, actions)
        descend(self.critic, self.critic_adam, pinball(errors, self.settings.quantile))
        own = torch.sigmoid(forward(self.actor, states))
        descend(self.actor, self.actor_adam, -self._value(states, own))

    def _value(self, states: Tensor, actions: Tensor) -> Float[Tensor, "replicas batch"]:
        return forward(self.critic, torch.cat([states, actions], -1))[..., 0]


def descend(net: Network, adam: torch.optim.Adam, losses: Float[Tensor, "replicas batch"]) -> None:
    """Take a step on the mean loss of every repetition."""
    for weights, gradient in zip(net, torch.autograd.grad(losses.mean(1).sum(), net), strict=True):
        weights.grad = gradient
    adam.step()


def network(resources: TableResources, name: str, sizes: tuple[int, ...]) -> Network:
    """Return the layers of a perceptron a repetition, uniform in ±1/√inputs."""
    found: Network = []
    for layer, (inputs, outputs) in enumerate(pairwise(sizes)):
        draws = resources.uniform(f"{name} {layer}", 0, (inputs + 1) * outputs).reshape(-1, inputs + 1, outputs)
        found.append(torch.tensor((2 * draws - 1) / inputs**0.5, dtype=torch.float32, requires_grad=True))
    return found


def forward(net: Network, values: Float[Tensor, "replicas batch inputs"]) -> Float[Tensor, "replicas batch outputs"]:
    """Return a perceptron's outputs; the last row of a layer is its bias."""
    for layer, weights in enumerate(net):
        values = torch.baddbmm(weights[:, -1:], values.relu() if layer else values, weights[:, :-1])
    return values


def pinball(errors: Float[Tensor, "*batch"], quantile: float) -> Float[Tensor, "*batch"]:
    """Return the quantile loss of target minus prediction; an error that is not a number costs nothing."""
    known = torch.where(errors.isnan(), 0.0, errors)
    return torch.maximum(quantile * known, (quantile - 1) * known)


def standardised(rewards: Float[Tensor, "replicas queries"]) -> Float[Tensor, "replicas queries"]:
    """Return rewards in units of their deviation from their mean; misses stay NaN."""
    mean = rewards.nanmean(1, keepdim=True)
    return (rewards - mean) / ((rewards - mean).square().nanmean(1, keepdim=True).sqrt() + 1e-8)


METHOD = TableMethod(
    "l2nas", Settings, L2NAS, "Mills et al. (2021), L²NAS: our reading, no code was found", repetitions=50
)
