"""Random search with weight sharing.

Source: Li and Talwalkar (2019), Random Search and Reproducibility for Neural Architecture Search,
https://arxiv.org/abs/1902.07638, section 3.3; protocol of Zela et al. (2020), NAS-Bench-1Shot1, for its spaces.

One step:
  1. draw a discrete cell for each replica: parents uniform over combinations, operations uniform, loose ends allowed;
     kept inputs are summed with weight 1, a block the output does not keep is zero in the concatenation.
  2. w: cross-entropy of a training batch through that cell; clip to norm 0.25; SGD, cosine rate. What the cell does not
     use does not move.
After an epoch (or the last one only): 1000 random cells on 10 validation batches each, the best 5 on the whole
validation half, the best of these is selected. A cell that cannot carry a signal is drawn again (possible only where
an option is `none`; published code redraws whenever a node receives nothing, which is stricter).
There are no logits, so λ does not exist.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from searchers._bilevel import weight_step
from searchers._optim import SGD, WeightSettings, cosine, restore
from searchers._ranking import KHot, RankingSettings, as_choices, rank, sample_cells
from searchers.base import (
    Choices,
    DataPolicy,
    Logits,
    Method,
    Resources,
    StepBatches,
    StepLosses,
    Supernet,
    SupernetOptions,
)

REDRAWS = 100


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
    """Train weights only, at the method's own batch size."""
    return DataPolicy(val_batches=0, batch_size=lambda _epoch, base: settings.batch_size or base)


class RandomWS:
    """Trains the weights of uniformly sampled cells."""

    hessian_of = None
    no_curvature = "random search with weight sharing has no architecture logits"
    shift_invariant: tuple[str, ...] = ()

    def __init__(self, settings: Settings, resources: Resources) -> None:
        self.settings, self.resources = settings, resources
        self.policy = policy(settings)
        self.supernet: Supernet = resources.build(SupernetOptions())
        self.parameters = dict(self.supernet.named_parameters())
        self.weights = SGD(self.parameters, settings.weights)
        self.steps, self.lr = 0, settings.weights.lr
        self._selected: Logits | None = None

    def logits(self) -> Logits:
        return {}

    def relax(self, logits: Logits) -> Choices:
        raise ValueError(f"expected no call: {self.no_curvature}, got logits of {sorted(logits)}")

    def selected(self) -> Logits | None:
        return self._selected

    def begin_epoch(self, epoch: int) -> None:
        self.lr = cosine(self.settings.weights, epoch, self.resources.horizon.epochs)

    def step(self, batches: StepBatches) -> StepLosses:
        like = next(iter(self.parameters.values()))
        cells = self.supernet.cells if self.settings.per_cell else 1
        choices = as_choices(self.sample("cell", self.steps, cells), like)
        train = weight_step(self.supernet, self.weights, batches.train[0], choices, self.lr)
        self.steps += 1
        return StepLosses(train, None)

    def end_epoch(self, epoch: int) -> None:
        last = epoch == self.resources.horizon.epochs - 1
        if last or self.settings.ranking.every_epoch:
            base = epoch * self.settings.ranking.candidates
            self._selected, _ = rank(
                self.supernet, self.resources, lambda i: self.sample("candidate", base + i, 1), self.settings.ranking
            )

    def finish(self) -> None:
        """The last epoch's ranking has selected."""

    def sample(self, name: str, step: int, cells: int) -> KHot:
        """Return a uniform cell a replica, drawn again while it carries no signal."""
        streams = self.resources.stream(name, step)
        hot = sample_cells(self.supernet.groups, streams, cells)
        for _ in range(REDRAWS):
            dead = np.flatnonzero(~self._carries(hot))
            if not len(dead):
                return hot
            again = sample_cells(self.supernet.groups, [streams[i] for i in dead], cells)
            for group, values in again.items():
                hot[group][:, dead] = values
        raise RuntimeError(f"expected a cell that reaches the output within {REDRAWS} draws, got none")

    def _carries(self, hot: KHot) -> np.ndarray:
        """Return for each replica whether every cell has an operation or input on a path to its output."""
        live = self.supernet.live({name: values > 0 for name, values in hot.items()})
        alive = [values.any((2, 3)) for values in live.values()]
        return np.logical_or.reduce(alive).all(0)

    def state_dict(self) -> dict[str, Any]:
        return {
            "parameters": {name: value.detach() for name, value in self.parameters.items()},
            "weights": self.weights.state_dict(),
            "steps": self.steps,
            "selected": self._selected,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        restore(self.parameters, state["parameters"])
        self.weights.load_state_dict(state["weights"])
        self.steps, self._selected = state["steps"], state["selected"]


METHOD = Method(
    "random_ws",
    Settings,
    RandomWS,
    "Li and Talwalkar (2019), Random search with weight sharing",
    passes_per_step=0.5,
    policy=policy,
)
