"""Rows that have been decided in the course of a search: fixed weights, no gradient, logits that stay.

A decided row mixes its kept options with weight 1, as the discrete network does, and the others are not computed. Rows
are decided for each replica on its own; the masks live on the host.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from searchers import _relax
from searchers._exclude import Alive, entries
from searchers._hosted import constant
from searchers.base import Choices, Group, Logits


class Frozen:
    """Which rows are decided, and what they keep."""

    def __init__(self, groups: Sequence[Group], replicas: int) -> None:
        self.alive = Alive(groups, replicas)
        self.rows = {group.name: np.zeros((replicas, group.decisions), bool) for group in groups}

    @property
    def kept(self) -> dict[str, Bool[np.ndarray, "replicas decisions options"]]:
        return self.alive.masks

    @property
    def any(self) -> bool:
        """Return whether any row of any replica is decided."""
        return any(rows.any() for rows in self.rows.values())

    def decide(self, replica: int, group: str, decision: int, options: Sequence[int]) -> None:
        """Keep these options of a row and no others.

        Raises:
            ValueError: the row is decided already, or nothing would be kept.
        """
        if self.rows[group][replica, decision] or not len(options):
            raise ValueError(f"expected options for an undecided row, got {list(options)} for {group!r}, {decision}")
        self.rows[group][replica, decision] = True
        self.alive.keep(replica, group, decision, options)

    def relax(self, logits: Logits) -> Choices:
        """Mix decided rows with weight 1 on what they keep, the others with their softmax."""
        return self.over(_relax.softmax(logits))

    def over(self, choices: Choices) -> Choices:
        """Return choices in which decided rows have weight 1 on what they keep, and the others are as they were."""
        if not self.any:
            return choices
        weights = {name: torch.where(*self._masks(name, value), value) for name, value in choices.weights.items()}
        active = {}
        for name, value in choices.weights.items():
            before = np.True_ if choices.active is None else choices.active[name]
            decided = np.where(self.rows[name][..., None], self.kept[name], before)
            active[name] = np.broadcast_to(decided, tuple(value.shape)).copy()
        return Choices(weights, active)

    def moves(self, like: Tensor) -> Bool[Tensor, "replicas size"] | None:
        """Return which logits are free, side by side; None: all."""
        if not self.any:
            return None
        free = {name: np.repeat(~rows, self.kept[name].shape[-1], 1) for name, rows in self.rows.items()}
        return entries(free, like)

    def scores(self, otherwise: Callable[[Logits], Logits]) -> Callable[[Logits], Logits]:
        """Return a selection that follows the decisions, and elsewhere another selection."""

        def select(logits: Logits) -> Logits:
            return {name: torch.where(*self._masks(name, v), v) for name, v in otherwise(logits).items()}

        return select

    def _masks(self, name: str, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return which rows are decided, and their k-hot weights."""
        decided = constant(self.rows[name], like.device)[..., None]
        return decided, constant(self.kept[name], like.device).to(like.dtype)

    def state_dict(self) -> dict[str, Any]:
        rows = {name: torch.from_numpy(mask.copy()) for name, mask in self.rows.items()}
        return {"kept": self.alive.state_dict(), "rows": rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.alive.load_state_dict(state["kept"])
        for name, mask in self.rows.items():
            mask[:] = state["rows"][name].cpu().numpy()
