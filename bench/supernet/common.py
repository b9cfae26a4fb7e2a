"""What the supernets share: a cell's slice of the choices and the addresses of its parameters."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bench import layers, ops
from bench.kernels import Kernels
from bench.mixture import Factors, columns
from bench.weights import Packed, Packing
from searchers._hosted import constant
from searchers.base import Active, Choices, ForwardInputs, Group

SMALL = 2**16
"""The most numbers of the stem's map for which an option that some replicas use is computed for all.

Measured on a CPU, where steps of 8 replicas of the embedded size, just as many, gain .74 to .96 by it and those of 16
lose as often as they gain (docs/speed.md).
"""

Array = TypeVar("Array", Tensor, np.ndarray)
Made = TypeVar("Made")


@dataclass(frozen=True)
class NetworkSize:
    """Size of a supernet, of one cell a stage or as published.

    Attributes:
        cells: cells a stage (there are three).
    """

    channels: int
    cells: int
    image_channels: int = 3
    classes: int = 10

    def scaled(self, depth: float) -> "NetworkSize":
        """Return the size with this share of the cells a stage, rounded, and at least one."""
        if not 0 < depth <= 1:
            raise ValueError(f"expected a depth, a share of the cells a stage, in (0, 1], got {depth}")
        return replace(self, cells=max(1, round(depth * self.cells)))


@dataclass(frozen=True)
class CellChoices:
    """The mixing weights one cell receives.

    Attributes:
        made: what was made of weights that all cells share; a pass over several cells gives them one.
        live: the options that a replica uses, where more are computed; None where all are used.
    """

    choices: Choices
    inputs: ForwardInputs
    flow: ops.Flow
    cell: int
    made: dict[Hashable, Any] = field(default_factory=dict)
    live: Active | None = None

    def weights(self, group: str) -> Float[Tensor, "replicas decisions options"]:
        return _of_cell(self.choices.weights[group], self.cell)

    def active(self, group: str) -> Bool[np.ndarray, "replicas decisions options"] | None:
        """Return which options are computed, None where all are."""
        active = self.choices.active
        return None if active is None else _of_cell(active[group], self.cell)

    def used(self, group: str) -> Bool[np.ndarray, "replicas decisions options"] | None:
        """Return which options each replica uses, None where all are."""
        return None if self.live is None else _of_cell(self.live[group], self.cell)

    def once(self, group: str, name: Hashable, make: Callable[[Tensor], Made]) -> Made:
        """Return what is made of a group's weights, made a single time for all cells that share them."""
        own = self.cell if self.choices.weights[group].shape[0] > 1 else None
        key = group, own, name
        if key not in self.made:
            self.made[key] = make(self.weights(group))
        found: Made = self.made[key]
        return found

    def factors(self, group: str, channels: int) -> list[Sequence[Factors]]:
        """Return the factors of every option, decision by decision, for maps of so many channels."""
        _, replicas, _, options = self.choices.weights[group].shape

        def make(weights: Tensor) -> list[Sequence[Factors]]:
            every = columns(weights, channels)
            return [every[start : start + options] for start in range(0, len(every), options)]

        return self.once(group, ("factors", channels if replicas > 1 else None), make)

    def row(self, group: str, decision: int) -> ops.Row:
        active = self.active(group)
        weights = self.once(group, "rows", lambda weights: weights.unbind(1))
        return ops.Row(
            weights[decision],
            None if active is None else active[:, decision],
            lambda channels: self.factors(group, channels)[decision],
        )

    def keep(self, group: str, decision: int) -> Float[Tensor, "replicas n"] | None:
        keep = self.inputs.keep
        return None if keep is None else _of_cell(keep[group], self.cell)[:, :, decision]

    def shift(self, group: str, decision: int) -> Float[Tensor, " replicas"] | None:
        shift = self.inputs.shift
        return None if shift is None else _of_cell(shift[group], self.cell)[:, decision]


def _of_cell(values: Array, cell: int) -> Array:
    return values[cell if values.shape[0] > 1 else 0]


def width(channels: int, parts: int) -> int:
    """Return the number of channels that operations mix: one part of them."""
    if parts < 1 or channels % parts:
        raise ValueError(f"expected partial_channels to divide the {channels} channels of a cell, got {parts}")
    return channels // parts


def as_computed(choices: Choices, live: Active | None, numbers: int, inputs: ForwardInputs) -> Choices:
    """Return the choices as a pass computes them.

    Where maps are small, taking and placing the channels of some replicas costs more than computing an option for all
    of them: there it is computed for all, and its weight is a constant zero for those that leave it out. Its parameters
    are read there, so they must be finite, and their gradient is zero. What no replica uses is not computed. An
    observer sees an option's maps of the replicas that use it only.

    Args:
        choices: as the searcher has made them.
        live: the active options whose output reaches the head; None where all are.
        numbers: of the stem's map, of all replicas.
        inputs: of the pass.
    """
    if live is None or inputs.observe is not None or numbers > SMALL:
        return Choices(choices.weights, live)
    wide = {name: np.broadcast_to(mask.any(1, keepdims=True), mask.shape) for name, mask in live.items()}
    weights = dict(choices.weights)
    for name, mask in live.items():
        if not mask.all():
            weights[name] = torch.where(constant(mask, weights[name].device), weights[name], 0)
    return Choices(weights, wide)


class Pass(NamedTuple):
    """A forward pass: its choices as they are computed, the options that reach the head, and its flow."""

    choices: Choices
    live: Active | None
    flow: ops.Flow


@runtime_checkable
class Network(Packed, Protocol):
    """What both supernets are.

    Attributes:
        once: what passes are computed with that are differentiated once at most.
    """

    groups: tuple[Group, ...]
    cells: int
    auxiliary: bool
    stem: layers.ConvNorm
    packing: Packing
    once: Kernels

    def live(self, active: Active) -> Active: ...


def begin(network: Network, images: Float[Tensor, "replicas n c h w"], choices: Choices, inputs: ForwardInputs) -> Pass:
    """Return how a network computes what it is asked for."""
    replicas, numbers = images.shape[0], layers.size_of_maps(network.stem, images)
    check(choices, network.groups, network.cells, replicas)
    check_auxiliary(inputs, network.auxiliary)
    live = None if choices.active is None else network.live(choices.active)
    flow = ops.flow_of(inputs, replicas, network.once)
    flow = replace(flow, sizes_join=flow.kernels.mixed is None and layers.sizes_join(numbers, replicas, inputs))
    if inputs.weights is not None:
        given, packing = inputs.weights, network.packing
        if len(given) != replicas:
            raise ValueError(f"expected weights of {replicas} replicas, as the images are, got {len(given)}")
        whole = live is None and inputs.observe is None
        weights = packing.whole(network, given, flow.sizes_join) if whole else packing.some(network, given)
        flow = replace(flow, weights=weights)
    return Pass(as_computed(choices, live, numbers, inputs), live, flow)


def with_auxiliary(
    mixed: Float[Tensor, "n rc _h _w"], x: Float[Tensor, "n rc _h _w"], choices: CellChoices
) -> Float[Tensor, "n rc _h _w"]:
    """Add the auxiliary skip to the output of a mixed operation whose input is x."""
    coefficient = choices.inputs.auxiliary
    return mixed if coefficient == 0 else mixed.add(x, alpha=coefficient)


def check_auxiliary(inputs: ForwardInputs, built: bool) -> None:
    """Raise where an auxiliary skip is asked of a network that has none."""
    if inputs.auxiliary != 0 and not built:
        raise ValueError(f"expected a network with auxiliary skips or a coefficient of 0, got {inputs.auxiliary}")


def check(choices: Choices, groups: tuple[Group, ...], cells: int, replicas: int) -> None:
    """Raise where the choices do not fit the supernet."""
    for group in groups:
        if group.name not in choices.weights:
            raise ValueError(f"expected weights for group {group.name!r}, got groups {sorted(choices.weights)}")
        shape = tuple(choices.weights[group.name].shape)
        expected = (replicas, *group.shape)
        if shape[1:] != expected or shape[0] not in {1, cells}:
            raise ValueError(f"expected weights of shape (1 or {cells}, *{expected}) for {group.name!r}, got {shape}")
        if choices.active is None:
            continue
        if group.name not in choices.active:
            raise ValueError(f"expected active options for group {group.name!r}, got groups {sorted(choices.active)}")
        if choices.active[group.name].shape != shape:
            found = choices.active[group.name].shape
            raise ValueError(f"expected active options of shape {shape} for {group.name!r}, got {found}")
