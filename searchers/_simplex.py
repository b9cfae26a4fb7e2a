"""Mixing weights θ that live on the simplex and descend by exponentiated gradient.

Source: Li, Khodak, Balcan, Talwalkar (2021), Geometry-Aware Gradient Algorithms for Neural Architecture Search,
https://arxiv.org/abs/2004.07802, algorithm 1 and section 3.2: θ ← θ·exp(−η·∂L/∂θ), each row divided by its sum.

A searcher holds log θ. Then softmax(log θ) = θ, λ is in the coordinates of all softmax methods, and the update is plain
descent on the logits with the gradient by θ.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from searchers._exclude import columns, masked, softmax_without
from searchers._optim import ArchSettings, Gradients, Layout, Rate, Touched
from searchers.base import Choices, Group, Logits

NONE = "none"
"""The option that is not searched."""


@dataclass(frozen=True)
class SimplexSettings:
    """The authors' settings.

    Attributes:
        lr: η.
        floor: least value of θ.
    """

    lr: float = 0.1
    floor: float = 1e-5

    def __post_init__(self) -> None:
        if not 0 < self.floor < 0.1:
            raise ValueError(f"expected a floor in (0, 0.1), got {self.floor}")


class ExponentiatedGradient:
    """Moves log θ by gradients with respect to θ; an option that is left out stays at the floor."""

    def __init__(self, logits: Logits, left_out: dict[str, int], floor: float) -> None:
        self.logits, self.left_out, self.least = logits, left_out, math.log(floor)
        self.layout = Layout(logits)

    def step(self, gradients: Gradients, lr: Rate, moves: Touched = None) -> None:
        flat = self.layout.flatten(self.logits)
        column = lr[:, None] if isinstance(lr, Tensor) else lr
        stepped = self.layout.split(flat - column * self.layout.flatten(gradients))
        moved = self.layout.flatten({name: self._normalised(name, value) for name, value in stepped.items()})
        self.layout.store(self.logits, moved if moves is None else torch.where(moves, moved, flat))

    def _normalised(self, name: str, values: Tensor) -> Tensor:
        return masked(values, self.left_out.get(name)).log_softmax(-1).clamp_min(self.least)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing is remembered between steps."""


@dataclass(frozen=True)
class Simplex:
    """The pieces of a recipe whose logits are log θ, without the option `none`."""

    groups: Sequence[Group]
    settings: SimplexSettings

    def init(self, groups: Sequence[Group], streams: Sequence[torch.Generator], like: Tensor) -> Logits:
        """Return log of the uniform θ."""
        zero = {group.name: like.detach().new_zeros(len(streams), *group.shape) for group in groups}
        ExponentiatedGradient(zero, columns(groups, NONE), self.settings.floor).step({}, 0.0)
        return zero

    def optimiser(self, logits: Logits, _arch: ArchSettings) -> ExponentiatedGradient:
        return ExponentiatedGradient(logits, columns(self.groups, NONE), self.settings.floor)

    @property
    def relax(self) -> Callable[[Logits], Choices]:
        return softmax_without(self.groups, NONE)

    def by_theta(self, leaves: Logits) -> Choices:
        """Return θ; what autograd calls its derivative by the leaves is the derivative by θ."""
        theta = self.relax({name: leaf.detach() for name, leaf in leaves.items()}).weights
        return Choices({name: theta[name] + (leaf - leaf.detach()) for name, leaf in leaves.items()})
