"""Deciding the rows of a search one after another, the surest first: indicators, scores and their schedule.

Source: Li, Qian, Delgadillo, Müller, Thabet, Ghanem (2020), SGAS: Sequential Greedy Architecture Search,
https://arxiv.org/abs/1912.00195, equations 2-7.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from searchers._bilevel import Bilevel
from searchers._exclude import columns
from searchers._freeze import Frozen
from searchers.base import Group, Logits

Row = Float[np.ndarray, "replicas decisions options"]
Shares = dict[str, Row]
Scores = Float[np.ndarray, "replicas rows"]
Indicator = Callable[[Group, Row], Float[np.ndarray, "replicas decisions"]]

ROUNDING = 1e-12
"""Indicators are sums of shares in float64: without `none` the importance of a row is 1 up to 1e-15 or so."""


@dataclass(frozen=True)
class Schedule:
    """When rows are decided, in epochs of the published search.

    Attributes:
        first: the epoch after which the first row is decided.
        every: epochs from one decision to the next.
        tail: epochs from the last decision to the end.
        rows: how many rows are decided; None: all.
    """

    first: int = 9
    every: int = 5
    tail: int = 6
    rows: int | None = None

    def __post_init__(self) -> None:
        if self.first < 0 or self.every < 1 or self.tail < 1 or (self.rows or 0) < 0:
            raise ValueError(f"expected first and rows of at least 0, every and tail of at least 1, got {self}")

    def due(self, epoch: int, epochs: int, rows: int) -> int:
        """Return how many rows are to be decided by the end of an epoch of a search over so many epochs."""
        count = rows if self.rows is None else min(rows, self.rows)
        published = self.first + self.every * (count - 1) + self.tail
        return sum((self.first + 1 + self.every * d) * epochs <= (epoch + 1) * published for d in range(count))


def scaled(indicator: Scores) -> Scores:
    """Scale each replica's indicator to [0, 1] over its rows; 1 where all are the same up to rounding."""
    low, high = indicator.min(1, keepdims=True), indicator.max(1, keepdims=True)
    differ = high - low > ROUNDING
    return np.where(differ, (indicator - low) / np.where(differ, high - low, 1.0), 1.0)


class Decisions:
    """Decides rows, and remembers what it has decided and the shares of the last epochs."""

    def __init__(self, groups: Sequence[Group], replicas: int, schedule: Schedule, history: int) -> None:
        self.groups, self.schedule, self.history = groups, schedule, history
        self.none = columns(groups, "none")
        self.frozen = Frozen(groups, replicas)
        self.made, self.past = 0, list[Shares]()
        self.rows = [(group, decision) for group in groups for decision in range(group.decisions)]

    def end_epoch(self, searcher: Bilevel, epoch: int) -> None:
        importance, shares = self._read(searcher.logits())
        due = self.schedule.due(epoch, searcher.resources.horizon.epochs, len(self.rows))
        if due > self.made:
            scores = self.scores(importance, shares)
            for _ in range(due - self.made):
                self._decide(scores, shares)
        self.made = max(due, self.made)
        self.past = [*self.past, shares][-self.history :] if self.history else []

    def scores(self, importance: Scores, shares: Shares) -> Scores:
        """Return the product of the scaled indicators of every row."""
        score = scaled(importance) * scaled(self._rowwise(shares, self._certainty))
        if not self.past:
            return score
        overlaps = [{n: np.minimum(p, old[n]) for n, p in shares.items()} for old in self.past]
        stability = np.mean([self._rowwise(each, lambda _group, p: p.sum(-1)) for each in overlaps], 0)
        return score * scaled(stability)

    def _read(self, logits: Logits) -> tuple[Scores, Shares]:
        """Return the importance of every row and the shares of its options, 0 for `none`."""
        shares = {name: values.double().softmax(-1).cpu().numpy() for name, values in logits.items()}
        for name, column in self.none.items():
            shares[name][..., column] = 0.0
        importance = self._rowwise(shares, lambda _group, p: p.sum(-1))
        return importance, {name: p / p.sum(-1, keepdims=True) for name, p in shares.items()}

    def _certainty(self, group: Group, p: np.ndarray) -> np.ndarray:
        entropy = -(p * np.log(np.where(p > 0, p, 1.0))).sum(-1)
        return 1 - entropy / np.log(len(group.options) - (group.name in self.none))

    def _rowwise(self, shares: Shares, indicator: Indicator) -> Scores:
        return np.concatenate([indicator(group, shares[group.name]) for group in self.groups], 1)

    def _decide(self, scores: Scores, shares: Shares) -> None:
        open_rows = np.concatenate([~self.frozen.rows[group.name] for group in self.groups], 1)
        chosen = np.where(open_rows, scores, -np.inf).argmax(1)
        for replica, row in enumerate(chosen):
            group, decision = self.rows[row]
            order = np.argsort(-shares[group.name][replica, decision], kind="stable")
            self.frozen.decide(replica, group.name, decision, order[: group.keep].tolist())

    def state_dict(self) -> dict[str, Any]:
        past = [{name: torch.from_numpy(p.copy()) for name, p in shares.items()} for shares in self.past]
        return {"frozen": self.frozen.state_dict(), "made": self.made, "past": past}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.frozen.load_state_dict(state["frozen"])
        self.made = state["made"]
        self.past = [{name: p.cpu().numpy().copy() for name, p in shares.items()} for shares in state["past"]]
