"""DARTS+: DARTS, stopped once skips take over or the order of learnable operations has settled.

Source: Liang, Zhang, Sun, He, Huang, Zhuang, Li (2019), DARTS+: Improved Differentiable Architecture Search with Early
Stopping, https://arxiv.org/abs/1909.06035, as told in the survey of Heuillet et al. (2023).

One step: as DARTS, first order.
After an epoch, a replica stops if
  1. its decoded cell has at least `skips` skip connections (2 in a normal cell; 2 of six edges on NAS-Bench-201), or
  2. the order of the logits of operations with weights, in every row, has been the same for `patience` epochs.
Criterion 1 needs a skip, which NAS-Bench-1Shot1 lacks: there it never holds. Both read the logits on the host: they are
decisions about numbers. The search of a stopped replica goes on as DARTS to the bit, so that it disturbs no other of
its stack and records show what would have come.
Discretise: the highest logits of each row, of the stopping epoch or, while a replica has not stopped, of the present.

Sure: both criteria, and that the cell of the stopping epoch is returned. Our reading: both at once, whichever holds
first; rows that choose inputs have no learnable operations and count for neither. Epochs of patience are counted, not
shares of the budget: it is a test on a noisy series. On NAS-Bench-201 criterion 1 is severe: of cells drawn uniformly a
third has two skips, so that many a search stops while its logits are still noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from searchers._bilevel import Bilevel, Recipe
from searchers._early_stop import of_each
from searchers._engine import k_hot, read
from searchers._exclude import columns
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import Group, Logits, Resources
from searchers.entry import Method


@dataclass(frozen=True)
class Settings:
    """Settings of DARTS, and the published criteria.

    Attributes:
        skips: criterion 1, skips in the decoded cell that stop a search; None: it is off.
        patience: criterion 2, epochs through which an order must stay; None: it is off.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)
    skips: int | None = 2
    patience: int | None = 10

    def __post_init__(self) -> None:
        if any(value is not None and value < 1 for value in (self.skips, self.patience)):
            raise ValueError(f"expected skips and patience of at least 1 or None, got {self.skips} and {self.patience}")


class Watch:
    """Remembers the last order and for how long it has stayed; of stopped replicas the epoch and the logits."""

    def __init__(self, groups: Sequence[Group], settings: Settings, replicas: int) -> None:
        self.groups, self.settings = groups, settings
        self.order: Int[np.ndarray, "replicas places"] | None = None
        self.unchanged = [0] * replicas
        self.stopped: list[int | None] = [None] * replicas
        self.kept: list[Logits] = [{} for _ in range(replicas)]

    def end_epoch(self, searcher: Bilevel, epoch: int) -> None:
        """Ask both criteria, and keep the logits of replicas for which one holds."""
        logits = searcher.logits()
        skips, settled = self._too_many_skips(logits), self._settled(logits)
        for replica, stopped in enumerate(self.stopped):
            if stopped is None and (skips[replica] or settled[replica]):
                self.stopped[replica] = epoch
                self.kept[replica] = {name: value[replica].clone() for name, value in logits.items()}

    def _too_many_skips(self, logits: Logits) -> list[bool]:
        found = columns(self.groups, "skip_connect")
        if self.settings.skips is None or not found:
            return [False] * len(self.stopped)
        kept = k_hot(self.groups, logits)
        counts = sum(kept[name][:, :, column].sum(1) for name, column in found.items())
        return (counts >= self.settings.skips).tolist()

    def _settled(self, logits: Logits) -> list[bool]:
        order = learnable_order(self.groups, logits)
        if self.settings.patience is None or not order.shape[1]:
            return [False] * len(self.stopped)
        same = np.zeros(len(order), bool) if self.order is None else (order == self.order).all(1)
        self.unchanged = [count + 1 if stays else 0 for count, stays in zip(self.unchanged, same, strict=True)]
        self.order = order
        return [count >= self.settings.patience for count in self.unchanged]

    def select(self, logits: Logits) -> Logits:
        """Return the logits of each replica's stopping epoch."""
        present = [{name: value[replica] for name, value in logits.items()} for replica in range(len(self.stopped))]
        return of_each([kept or now for kept, now in zip(self.kept, present, strict=True)], logits)

    def state_dict(self) -> dict[str, Any]:
        return {
            "order": None if self.order is None else torch.from_numpy(self.order.copy()),
            "unchanged": list(self.unchanged),
            "stopped": list(self.stopped),
            "kept": [dict(kept) for kept in self.kept],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.order = None if state["order"] is None else state["order"].cpu().numpy().copy()
        self.unchanged, self.stopped = list(state["unchanged"]), list(state["stopped"])
        self.kept = [dict(kept) for kept in state["kept"]]


def learnable_order(groups: Sequence[Group], logits: Logits) -> Int[np.ndarray, "replicas places"]:
    """Return the operations with weights of every row, from the highest logit to the lowest, side by side.

    Rows with fewer than two of them have no order.
    """
    parts = [np.zeros((len(next(iter(logits.values()))), 0), np.int64)]
    for group, values in zip(groups, read(groups, logits), strict=True):
        if sum(group.parametric) > 1:
            order = np.argsort(-values[:, :, np.flatnonzero(group.parametric)], axis=2, kind="stable")
            parts.append(order.reshape(len(values), -1))
    return np.concatenate(parts, 1)


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""
    watch = Watch(resources.groups, settings, resources.replicas)
    recipe = Recipe(end_epoch=watch.end_epoch, select=watch.select, memory=watch)
    return Bilevel(recipe, settings.weights, settings.arch, resources)


METHOD = Method("darts_plus", Settings, build, "Liang et al. (2019), DARTS+", passes_per_step=2.0, steady=True)
