"""Do the gradients of the two halves agree about the weights of an operation? Those that do not are frozen.

Source: Jiang, Ji, Zhu, Yuan, Huang (2023), Operation-Level Early Stopping for Robustifying Differentiable NAS,
https://arxiv.org/abs/2306.01431, equations 4-6.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from searchers._optim import Layout
from searchers.base import Address, Flat, Supernet

PerOperation = Float[Tensor, "replicas operations"]


def operations(network: Supernet) -> dict[str, Address]:
    """Return the operation that each weight of an operation belongs to."""
    ops = {group.name for group in network.groups if group.kind == "op"}
    found = {name: network.address(name) for name, _ in network.named_parameters()}
    return {n: a for n, a in found.items() if a is not None and a.option is not None and a.group in ops}


class Matching:
    """Compares gradients of the two halves, and remembers which operations are frozen."""

    def __init__(self, network: Supernet, window: int, threshold: float) -> None:
        self.window, self.threshold = window, threshold
        layout = self.layout = Layout(dict(network.named_parameters()))
        owners = operations(network)
        places = {address: place for place, address in enumerate(dict.fromkeys(owners.values()))}
        rest = len(places)
        self.owner = np.array([places[owners[name]] if name in owners else rest for name in layout.shapes])
        sizes, like = torch.as_tensor(layout.sizes), layout.like
        self.entries = torch.as_tensor(self.owner).repeat_interleave(sizes).to(like.device)
        self.frozen = np.zeros((layout.replicas, rest + 1), bool)  # the last column: what is no operation's
        self.total, self.count = like.new_zeros(layout.replicas, rest + 1), 0
        self.train: Flat | None = None

    def cosines(self, one: Flat, other: Flat) -> PerOperation:
        """Return the cosine of two gradients over the weights of every operation; 0 where one is zero."""
        parts = [self._sum(product) for product in (one * other, one * one, other * other)]
        tiny = torch.finfo(one.dtype).tiny
        return (parts[0] / (parts[1].sqrt() * parts[2].sqrt()).clamp_min(tiny)).clamp(-1, 1)

    def _sum(self, values: Flat) -> PerOperation:
        return torch.zeros_like(self.total).index_add(1, self.entries, values)

    def see(self, val: Flat) -> None:
        """Take the validation gradient of a step; decide where a window is full."""
        if self.train is None:
            return
        self.total, self.count = self.total + self.cosines(val, self.train), self.count + 1
        if self.count == self.window:
            below = (self.total / self.count < self.threshold).cpu().numpy()
            self.frozen[:, :-1] |= below[:, :-1]
            self.total, self.count = torch.zeros_like(self.total), 0

    def used(self) -> Bool[np.ndarray, "replicas names"] | None:
        """Return which parameters move, None for all."""
        return ~self.frozen[:, self.owner] if self.frozen.any() else None

    def state_dict(self) -> dict[str, Any]:
        frozen = torch.from_numpy(self.frozen.copy())
        return {"train": self.train, "total": self.total, "count": self.count, "frozen": frozen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.train = None if state["train"] is None else state["train"].to(self.total)
        self.total, self.count = state["total"].to(self.total), state["count"]
        self.frozen[:] = state["frozen"].cpu().numpy()
