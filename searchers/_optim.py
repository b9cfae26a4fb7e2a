"""SGD and Adam over the replicas axis.

Everything that torch's optimisers do for a parameter is done here for a replica of a parameter: learning rate, weight
decay, step count and clipping. What a replica did not use does not move for it: neither weight decay nor momentum.
Parameters are laid side by side as one "replicas size" matrix, so that a step is a handful of large operations. What an
optimiser remembers stays where it is in memory, so that a recorded step can be played again (`bench.replay`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from searchers._hosted import constant
from searchers.base import Flat, Supernet

Gradients = Mapping[str, Tensor | None] | Flat
Rate = float | Float[Tensor, " replicas"]
Touched = Bool[Tensor, "replicas size"] | None


@dataclass(frozen=True)
class WeightSettings:
    """SGD of the weights; defaults of Liu et al. (2019), DARTS, section 3.1 and its code.

    Attributes:
        clip: bound on the global gradient norm of a replica; None does not clip.
    """

    lr: float = 0.025
    lr_min: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 3e-4
    clip: float | None = 5.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        for name in ("lr", "lr_min", "weight_decay"):
            _at_least_zero(name, getattr(self, name))
        if not 0 <= self.momentum < 1:
            raise ValueError(f"expected a momentum in [0, 1), got {self.momentum}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"expected a positive clip or null, got {self.clip}")


@dataclass(frozen=True)
class ArchSettings:
    """Adam of the architecture; defaults of Liu et al. (2019), DARTS, section 3.1 and its code."""

    lr: float = 3e-4
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 1e-3
    eps: float = 1e-8

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "eps"):
            _at_least_zero(name, getattr(self, name))
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"expected betas in [0, 1), got {self.betas}")


def _at_least_zero(name: str, value: float) -> None:
    if not value >= 0:
        raise ValueError(f"expected {name} of 0 or more, got {value}")


def cosine(settings: WeightSettings, epoch: int, epochs: int) -> float:
    """Return the learning rate of an epoch: lr_min + ½(lr − lr_min)(1 + cos(πe/E))."""
    return settings.lr_min + 0.5 * (settings.lr - settings.lr_min) * (1 + math.cos(math.pi * epoch / epochs))


class Layout:
    """Parameters side by side: a fixed order of names, shapes and column ranges."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.shapes = {name: value.shape for name, value in parameters.items()}
        self.sizes = [value[0].numel() for value in parameters.values()]
        self.like = next(iter(parameters.values())).detach()
        self.replicas = len(self.like)
        self.memory = _adjoining([value.detach() for value in parameters.values()])

    def flatten(self, values: Gradients) -> Flat:
        """Return the values side by side; an absent one is zero."""
        if isinstance(values, Tensor):
            return values
        parts = []
        for (name, shape), size in zip(self.shapes.items(), self.sizes, strict=True):
            value = values.get(name)
            parts.append(self.like.new_zeros(shape[0], size) if value is None else value.reshape(shape[0], size))
        return torch.cat(parts, 1)

    def split(self, flat: Flat) -> dict[str, Tensor]:
        """Undo `flatten`."""
        parts = flat.split(self.sizes, 1)
        return {name: part.reshape(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def spread(self, touched: Bool[np.ndarray, "replicas names"]) -> Touched:
        """Return which entries move, None when all do."""
        if touched.all():
            return None
        device, size = self.like.device, sum(self.sizes)
        return constant(touched, device).repeat_interleave(constant(self.sizes, device), 1, output_size=size)

    def current(self, parameters: Mapping[str, Tensor]) -> Flat:
        """Return the parameters side by side, detached: their own memory where they lie so, a copy where not.

        Raises:
            RuntimeError: they lay so when the layout was made, and have been moved since.
        """
        if self.memory is None:
            return self.flatten(parameters).detach()
        self._check(parameters)
        return self.memory.detach()

    def _check(self, parameters: Mapping[str, Tensor]) -> None:
        assert self.memory is not None
        values, mine = list(parameters.values()), self.memory.untyped_storage().data_ptr()
        if any(value.untyped_storage().data_ptr() != mine for value in (values[0], values[-1])):
            raise RuntimeError("expected parameters where they were when the layout was made, but they were moved")

    def store(self, parameters: Mapping[str, Tensor], flat: Flat) -> None:
        if self.memory is not None:
            self._check(parameters)
            self.memory.copy_(flat)
            return
        with torch.no_grad():
            torch._foreach_copy_(list(parameters.values()), list(self.split(flat).values()))


def _adjoining(values: Sequence[Tensor]) -> Flat | None:
    """Return the memory of tensors that lie side by side in each replica, as one tensor; None where they do not."""
    first, size = values[0], sum(value[0].numel() for value in values)
    storage, end = first.untyped_storage().data_ptr(), first.storage_offset()
    for value in values:
        dense = value[0].is_contiguous() and (len(value) == 1 or value.stride(0) == size)
        if not dense or value.storage_offset() != end or value.untyped_storage().data_ptr() != storage:
            return None
        end += value[0].numel()
    return first.as_strided((len(first), size), (size, 1))


def weights_of(network: Supernet) -> Flat:
    """Return a network's weights as `ForwardInputs.weights` takes them, detached; they move as the network's do."""
    parameters = dict(network.named_parameters())
    return Layout(parameters).current(parameters)


def clip(gradient: Flat, bound: float | None) -> Flat:
    """Scale each replica's gradient to a norm of at most `bound`, as torch's clip_grad_norm_ does."""
    if bound is None:
        return gradient
    norm = gradient.norm(dim=1, keepdim=True)
    return gradient * (bound / (norm + 1e-6)).clamp(max=1.0)


def restore(mine: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Copy saved values into tensors that stay where they are.

    Raises:
        ValueError: the names differ.
    """
    if set(mine) != set(saved):
        raise ValueError(f"expected saved tensors {sorted(mine)[:3]}…, got {sorted(saved)[:3]}…")
    with torch.no_grad():
        for name, value in mine.items():
            value.copy_(torch.as_tensor(saved[name]))


class SGD:
    """Stochastic gradient descent with momentum; torch.optim.SGD for each replica.

    `weight_decay` starts as the settings say and may be changed, for all replicas or for each.
    """

    def __init__(self, parameters: Mapping[str, Tensor], settings: WeightSettings) -> None:
        self.parameters, self.settings, self.layout = parameters, settings, Layout(parameters)
        self.weight_decay: Rate = settings.weight_decay
        self.momentum = torch.zeros_like(self.layout.flatten(parameters).detach())

    def leaf(self) -> Flat:
        """Return the parameters side by side, a leaf to differentiate by; it moves when they do."""
        return self.layout.current(self.parameters).requires_grad_()

    def step(self, gradients: Gradients, lr: Rate, used: Bool[np.ndarray, "replicas names"] | None = None) -> None:
        """Update the parameters; `used` says which of them move for which replica (None: all)."""
        self.move(gradients, lr, None if used is None else self.layout.spread(used))

    def move(self, gradients: Gradients, lr: Rate, mask: Touched) -> None:
        """Update the parameters; entries outside the mask stay as they are, and so does their momentum (None: all)."""
        flat = self.layout.current(self.parameters)
        gradient = clip(self.layout.flatten(gradients), self.settings.clip)
        direction = gradient + _column(self.weight_decay) * flat
        momentum = self.settings.momentum * self.momentum + direction
        update = direction + self.settings.momentum * momentum if self.settings.nesterov else momentum
        moved = flat - _column(lr) * update
        if mask is not None:
            momentum, moved = torch.where(mask, momentum, self.momentum), torch.where(mask, moved, flat)
        self.momentum.copy_(momentum)
        self.layout.store(self.parameters, moved)

    def lookahead(self, gradients: Gradients, lr: Rate) -> Flat:
        """Return the weights after one step without clipping and Nesterov: w − ξ(μ·m + ∇L + λ·w)."""
        flat = self.layout.current(self.parameters)
        direction = self.layout.flatten(gradients) + _column(self.weight_decay) * flat
        return flat - _column(lr) * (self.settings.momentum * self.momentum + direction)

    def state_dict(self) -> dict[str, Any]:
        return {"momentum": self.momentum, "weight_decay": self.weight_decay}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.momentum.copy_(state["momentum"])
        decay = state["weight_decay"]
        self.weight_decay = decay.to(self.momentum) if isinstance(decay, Tensor) else decay


class Adam:
    """Adam with L2 weight decay; torch.optim.Adam for each replica, with a step count for each entry."""

    def __init__(self, parameters: Mapping[str, Tensor], settings: ArchSettings) -> None:
        self.parameters, self.settings, self.layout = parameters, settings, Layout(parameters)
        self.mean = torch.zeros_like(self.layout.flatten(parameters).detach())
        self.square, self.count = torch.zeros_like(self.mean), torch.zeros_like(self.mean)

    def step(self, gradients: Gradients, lr: Rate, moves: Touched = None) -> None:
        """Update the parameters; entries outside `moves` stay as they are (None: all move)."""
        flat = self.layout.current(self.parameters)
        gradient = self.layout.flatten(gradients) + self.settings.weight_decay * flat
        first, second = self.settings.betas
        mean = first * self.mean + (1 - first) * gradient
        square = second * self.square + (1 - second) * gradient.square()
        count = self.count + 1
        spread = (square / (1 - second**count)).sqrt() + self.settings.eps
        moved = flat - _column(lr) * (mean / (1 - first**count)) / spread
        new, old = [mean, square, count, moved], [self.mean, self.square, self.count, flat]
        if moves is not None:
            new = [torch.where(moves, after, before) for after, before in zip(new, old, strict=True)]
        for kept, after in zip(old[:3], new[:3], strict=True):
            kept.copy_(after)
        self.layout.store(self.parameters, new[3])

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "square": self.square, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        restore(self.state_dict(), state)


class ArchSGD:
    """SGD with momentum for logits: rate and L2 weight decay of the architecture, no clipping."""

    def __init__(self, parameters: Mapping[str, Tensor], settings: ArchSettings, momentum: float) -> None:
        decay = settings.weight_decay
        own = WeightSettings(settings.lr, settings.lr, momentum, weight_decay=decay, clip=None)
        self.descent = SGD(parameters, own)

    def step(self, gradients: Gradients, lr: Rate, moves: Touched = None) -> None:
        """Update the parameters; entries outside `moves` stay as they are (None: all move)."""
        self.descent.move(gradients, lr, moves)

    def state_dict(self) -> dict[str, Any]:
        return self.descent.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.descent.load_state_dict(state)


def _column(rate: Rate) -> float | Float[Tensor, "replicas 1"]:
    return rate[:, None] if isinstance(rate, Tensor) else rate
