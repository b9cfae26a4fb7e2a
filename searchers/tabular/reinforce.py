"""REINFORCE with one independent categorical distribution a decision.

Source: Williams (1992), Simple statistical gradient-following algorithms for connectionist reinforcement learning,
https://doi.org/10.1007/BF00992696; as a baseline of table search: Ying et al. (2019), NAS-Bench-101, and Dong and Yang
(2020), NAS-Bench-201, whose settings are the defaults (Adam). The scripts of NAS-Bench-1Shot1 use SGD with rate 0.1.

One query:
  1. draw a cell: every decision from the softmax of its own logits.
  2. baseline b: exponential mean of the fitness with its start-up bias divided out; this fitness r is in it already.
  3. logits: one step of Adam or SGD along (r - b) ∇ log p(cell), where ∇ log p is one-hot minus softmax.
The best fitness seen is the result. Sure: the estimator, rates and decay. Our reading: the baseline is updated before
it is subtracted (the first query moves nothing); logits start from N(0, 1e-3²); the reward is the fitness as a
fraction; a decision that keeps several options has one logit a subset. A cell that is not in the table changes
nothing.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from searchers.entry import TableMethod
from searchers.tabular._encoding import Encoding, Genes
from searchers.tabular.base import Query, TableResources


@dataclass(frozen=True)
class Settings:
    """Settings of NAS-Bench-201.

    Attributes:
        decay: of the baseline.
    """

    optimiser: Literal["adam", "sgd"] = "adam"
    lr: float = 0.01
    decay: float = 0.9
    spread: float = 1e-3

    def __post_init__(self) -> None:
        if self.optimiser not in OPTIMISERS or self.lr <= 0 or not 0 <= self.decay < 1:
            raise ValueError(f"expected adam or sgd, a positive lr and a decay in [0, 1), got {self}")


class SGD:
    """Plain ascent."""

    def direction(self, gradient: np.ndarray, _moves: np.ndarray) -> np.ndarray:
        return gradient


class Adam:
    """Adam (Kingma and Ba 2015) with its published moments; a repetition that does not move keeps its state."""

    def __init__(self) -> None:
        self.mean, self.square, self.count = (np.zeros(1) for _ in range(3))

    def direction(self, gradient: np.ndarray, moves: np.ndarray) -> np.ndarray:
        moved = moves[:, None, None]
        self.mean = np.where(moved, 0.9 * self.mean + 0.1 * gradient, self.mean)
        self.square = np.where(moved, 0.999 * self.square + 0.001 * gradient**2, self.square)
        self.count = self.count + moved
        count = np.maximum(self.count, 1)
        spread = np.sqrt(self.square / (1 - 0.999**count)) + 1e-8
        return np.where(moved, self.mean / (1 - 0.9**count) / spread, 0.0)


OPTIMISERS: dict[str, type[SGD] | type[Adam]] = {"adam": Adam, "sgd": SGD}


class Reinforce:
    """Logits of every decision; places beyond a decision's subsets are -∞.

    Attributes:
        total, weight: the running baseline is total / weight.
    """

    def __init__(self, settings: Settings, resources: TableResources) -> None:
        self.settings, self.resources = settings, resources
        self.encoding, self.asked = Encoding(resources.groups), 0
        shape = self.encoding.genes, int(self.encoding.sizes.max())
        draws = resources.uniform("logits", 0, shape[0] * shape[1]).reshape(-1, *shape)
        normal = torch.special.ndtri(torch.from_numpy(np.clip(draws, 1e-12, None))).numpy()
        inside = np.arange(shape[1]) < self.encoding.sizes[:, None]
        self.logits = np.where(inside, settings.spread * normal, -np.inf)
        self.optimiser = OPTIMISERS[settings.optimiser]()
        self.total, self.weight = (np.zeros(resources.replicas) for _ in range(2))
        self.cells = np.zeros((resources.replicas, shape[0]), dtype=np.int64)

    def ask(self) -> Query:
        points = self.resources.uniform("cell", self.asked, self.encoding.genes)
        reached = np.cumsum(softmax(self.logits), -1) <= points[..., None]
        self.cells = np.minimum(reached.sum(-1), self.encoding.sizes - 1)
        self.asked += 1
        return Query(self.encoding.scores(self.cells), self.resources.budgets[-1])

    def tell(self, fitness: Float[np.ndarray, " replicas"], _cost_s: Float[np.ndarray, " replicas"], /) -> None:
        known = ~np.isnan(fitness)
        decay = np.where(known, self.settings.decay, 1.0)
        reward = np.where(known, fitness, 0.0)
        self.total = decay * self.total + (1 - decay) * reward
        self.weight = decay * self.weight + (1 - decay)
        baseline = self.total / np.where(self.weight > 0, self.weight, 1.0)
        advantage = np.where(known, reward - baseline, 0.0)
        gradient = advantage[:, None, None] * score(self.logits, self.cells)
        self.logits = self.logits + self.settings.lr * self.optimiser.direction(gradient, known)


def softmax(logits: Float[np.ndarray, "replicas genes sizes"]) -> Float[np.ndarray, "replicas genes sizes"]:
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def score(logits: Float[np.ndarray, "replicas genes sizes"], cells: Genes) -> Float[np.ndarray, "replicas genes sizes"]:
    """Return the gradient of the log-probability of the cells with respect to the logits."""
    hot = np.arange(logits.shape[-1]) == cells[..., None]
    return hot - softmax(logits)


METHOD = TableMethod("reinforce", Settings, Reinforce, "Williams (1992), REINFORCE; protocol of NAS-Bench-201")
