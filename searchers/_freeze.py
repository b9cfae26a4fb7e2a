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
from searchers.base import Choices, Group, Logits


class Frozen:
    """Which rows are decided, and what they keep."""

    def __init__(self, groups: Sequence[Group], replicas: int) -> None:
        self.kept = {group.name: np.ones((replicas, *group.shape), bool) for group in groups}
        self.rows = {group.name: np.zeros((replicas, group.decisions), bool) for group in groups}

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
        self.kept[group][replica, decision] = False
        self.kept[group][replica, decision, list(options)] = True

    def relax(self, logits: Logits) -> Choices:
        """Mix decided rows with weight 1 on what they keep, the others with their softmax."""
        if not self.any:
            return _relax.softmax(logits)
        weights = {n: torch.where(*self._masks(n, v), v.softmax(-1))[None] for n, v in logits.items()}
        return Choices(weights, {name: kept[None].copy() for name, kept in self.kept.items()})

    def moves(self, like: Tensor) -> Bool[Tensor, "replicas size"] | None:
        """Return which logits are free, side by side; None: all."""
        if not self.any:
            return None
        free = [np.repeat(~rows, self.kept[name].shape[-1], 1) for name, rows in self.rows.items()]
        return torch.as_tensor(np.concatenate(free, 1), device=like.device)

    def scores(self, otherwise: Callable[[Logits], Logits]) -> Callable[[Logits], Logits]:
        """Return a selection that follows the decisions, and elsewhere another selection."""

        def select(logits: Logits) -> Logits:
            return {name: torch.where(*self._masks(name, v), v) for name, v in otherwise(logits).items()}

        return select

    def _masks(self, name: str, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return which rows are decided, and their k-hot weights."""
        decided = torch.as_tensor(self.rows[name], device=like.device)[..., None]
        return decided, torch.as_tensor(self.kept[name], device=like.device).to(like.dtype)

    def state_dict(self) -> dict[str, Any]:
        return {
            "kept": {name: torch.from_numpy(mask.copy()) for name, mask in self.kept.items()},
            "rows": {name: torch.from_numpy(mask.copy()) for name, mask in self.rows.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for mine, saved in ((self.kept, state["kept"]), (self.rows, state["rows"])):
            for name, mask in mine.items():
                mask[:] = saved[name].cpu().numpy()
