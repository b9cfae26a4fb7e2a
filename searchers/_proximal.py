"""Scale factors that descend by accelerated proximal gradient, so that some become exactly zero.

Source: Zhang, Huang, Wang, Xiang, Pan (2021), You Only Search Once: Single Shot Neural Architecture Search via Direct
Sparse Optimization, https://arxiv.org/abs/1811.01567, section 3.3; Beck and Teboulle (2009), A Fast Iterative
Shrinkage-Thresholding Algorithm for Linear Inverse Problems, https://doi.org/10.1137/080716542.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from searchers._exclude import columns
from searchers._optim import Gradients, Layout, Rate, Touched, restore
from searchers.base import Group, Logits


@dataclass(frozen=True)
class ScaleSettings:
    """The authors' settings of the proximal steps.

    Attributes:
        lr: η.
        gamma: γ, the weight of the sum of scales.
        momentum: μ.
    """

    lr: float = 0.1
    gamma: float = 1e-3
    momentum: float = 0.9

    def __post_init__(self) -> None:
        if not (self.lr > 0 and self.gamma >= 0 and 0 <= self.momentum < 1):
            raise ValueError(f"expected lr above 0, gamma of at least 0 and momentum in [0, 1), got {self}")


class ProximalGradient:
    """Accelerated proximal gradient with a soft threshold; it remembers at which step each scale became zero."""

    def __init__(self, scales: Logits, settings: ScaleSettings) -> None:
        self.scales, self.settings, self.layout = scales, settings, Layout(scales)
        self.velocity = torch.zeros_like(self.layout.flatten(scales))
        self.died, self.steps = torch.full_like(self.velocity, torch.inf), self.velocity.new_zeros(())

    def step(self, gradients: Gradients, lr: Rate, moves: Touched = None) -> None:
        before = self.layout.flatten(self.scales)
        rate, momentum = lr[:, None] if isinstance(lr, Tensor) else lr, self.settings.momentum
        reached = before - rate * self.layout.flatten(gradients)
        shrunk = reached.sign() * (reached.abs() - rate * self.settings.gamma).relu()
        velocity = momentum * self.velocity + shrunk - before
        after = (shrunk + momentum * velocity).relu()
        if moves is not None:
            velocity, after = torch.where(moves, velocity, self.velocity), torch.where(moves, after, before)
        self.died.copy_(torch.where((before > 0) & (after == 0), self.steps, self.died))
        self.velocity.copy_(velocity)
        self.steps += 1
        self.layout.store(self.scales, after)

    def deaths(self) -> dict[str, Tensor]:
        """Return the step at which each scale last became zero, infinity where it never did."""
        return self.layout.split(self.died)

    def state_dict(self) -> dict[str, Any]:
        return {"velocity": self.velocity, "died": self.died, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        restore(self.state_dict(), state)


def starting_scales(groups: Sequence[Group], streams: Sequence[torch.Generator], like: Tensor) -> Logits:
    """Return scales of 1, and 0 for `none`."""
    scales = {group.name: like.detach().new_ones(len(streams), *group.shape) for group in groups}
    for name, column in columns(groups, "none").items():
        scales[name][..., column] = 0.0
    return scales


def by_death(scales: Logits, deaths: Logits) -> Logits:
    """Return the scales as scores in which zeros are below all others, and the earlier dead below the later."""
    return {name: torch.where(value > 0, value, -1 / (1 + deaths[name])) for name, value in scales.items()}
