"""Leaving options out of a search: they have no weight, and are never selected."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from searchers._hosted import constant
from searchers.base import Choices, Group, Logits

Masks = Mapping[str, Bool[np.ndarray, "replicas decisions options"]]


def columns(groups: Sequence[Group], option: str) -> dict[str, int]:
    """Return the column of the option in the groups that have it."""
    found = {group.name: group.index(option) for group in groups}
    return {name: column for name, column in found.items() if column is not None}


def masked(values: Float[Tensor, "... options"], column: int | None) -> Float[Tensor, "... options"]:
    """Return the values with −∞ in the column; None: as they are."""
    return values if column is None else values.masked_fill(_only(values, column), -torch.inf)


def below(values: Float[Tensor, "... options"], out: Bool[Tensor, "... options"]) -> Float[Tensor, "... options"]:
    """Return the values with what is out below all others of its row."""
    return torch.where(out, values.amin(-1, keepdim=True) - 1, values)


def _only(values: Float[Tensor, "... options"], column: int) -> Bool[Tensor, " options"]:
    return torch.arange(values.shape[-1], device=values.device) == column


def softmax_without(groups: Sequence[Group], option: str) -> Callable[[Logits], Choices]:
    """Return a relaxation that mixes every row with the softmax over its other options."""
    left_out = columns(groups, option)

    def relax(logits: Logits) -> Choices:
        return Choices({name: masked(v, left_out.get(name)).softmax(-1)[None] for name, v in logits.items()})

    return relax


def select_without(groups: Sequence[Group], *options: str) -> Callable[[Logits], Logits]:
    """Return a selection by the logits in which these options are below all others of their rows."""
    left_out = [columns(groups, option) for option in options]

    def select(logits: Logits) -> Logits:
        found = {name: values.clone() for name, values in logits.items()}
        for places in left_out:
            found |= {name: below(found[name], _only(found[name], column)) for name, column in places.items()}
        return found

    return select


def mixture(logits: Logits, alive: Masks) -> Choices:
    """Mix every row with the softmax over its options that are alive; the others are not computed."""
    out = {name: ~constant(alive[name], value.device) for name, value in logits.items()}
    weights = {name: v.masked_fill(out[name], -torch.inf).softmax(-1)[None] for name, v in logits.items()}
    whole = all(mask.all() for mask in alive.values())
    return Choices(weights, None if whole else {name: mask[None].copy() for name, mask in alive.items()})


def entries(masks: Mapping[str, np.ndarray], like: Tensor) -> Bool[Tensor, "replicas size"]:
    """Return the masks of all groups side by side, as the optimisers of logits lay them."""
    return constant(np.concatenate([mask.reshape(len(mask), -1) for mask in masks.values()], 1), like.device)


class Alive:
    """Which options of a row are in the search, for each replica; decided in its course, on the host."""

    def __init__(self, groups: Sequence[Group], replicas: int) -> None:
        self.masks = {group.name: np.ones((replicas, *group.shape), bool) for group in groups}

    def keep(self, replica: int, group: str, decision: int, options: Sequence[int]) -> None:
        """Leave all options of a row out but these.

        Raises:
            ValueError: nothing would be kept.
        """
        if not len(options):
            raise ValueError(f"expected options to keep of {group!r}, {decision}, got none")
        self.masks[group][replica, decision] = False
        self.masks[group][replica, decision, list(options)] = True

    def relax(self, logits: Logits) -> Choices:
        return mixture(logits, self.masks)

    def moves(self, like: Tensor) -> Bool[Tensor, "replicas size"] | None:
        """Return which logits are alive, side by side; None: all."""
        return None if all(mask.all() for mask in self.masks.values()) else entries(self.masks, like)

    def select(self, logits: Logits) -> Logits:
        """Return the logits with what is not alive below all others of its row."""
        return {n: below(v, ~constant(self.masks[n], v.device)) for n, v in logits.items()}

    def state_dict(self) -> dict[str, Any]:
        return {name: torch.from_numpy(mask.copy()) for name, mask in self.masks.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, mask in self.masks.items():
            mask[:] = state[name].cpu().numpy()
