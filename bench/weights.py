"""What the convolutions of a pass are computed with: parameters of the modules, or of one tensor that has them all.

Networks have their parameters side by side in memory (`lay_side_by_side`), "replicas size". A pass that is given them
as one tensor (`ForwardInputs.weights`) copies them once into the order in which it uses them: kernels and
normalisations that are computed as one stand together there, smaller kernels amid zeros. One copy takes the place of a
concatenation for each of them, its derivative is one gather, and the gradient comes in the order of the parameters,
where the optimiser wants it. A step of the embedded size takes .85 of the CPU time at R = 1, .95 at R = 4.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from bench.layout import Rows
from searchers.base import Flat

Kind = TypeVar("Kind")
Find = Callable[[Tensor], Shaped[Tensor, " replicas_numbers"]]
"""A parameter to the numbers that stand for it, those of all replicas one after the other."""


class Parts(NamedTuple):
    """The parameters of one layer, each starting with the replicas axis.

    Attributes:
        kernels: of a convolution "replicas out into side side", of the classifier "replicas out into".
        scale: of the normalisation, "replicas out", and so is its shift and the bias before it.
    """

    kernels: Tensor
    bias: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None


class Operands(NamedTuple):
    """The parts of modules that are computed as one, side by side within each replica.

    Axes replicas and out are one.
    """

    kernels: Float[Tensor, "rows_out into ..."]
    bias: Float[Tensor, " rows_out"] | None
    scale: Float[Tensor, " rows_out"] | None
    shift: Float[Tensor, " rows_out"] | None


@runtime_checkable
class Layer(Protocol):
    """A layer with parameters."""

    def parts(self) -> Parts: ...


Layers = tuple[Layer, ...]
"""Layers that are computed as one."""


@runtime_checkable
class Weights(Protocol):
    """Where a pass has its operands from."""

    def of(self, layers: Layers, rows: Rows = None) -> Operands:
        """Return the operands of layers that are computed as one; of some replicas if rows are given."""
        ...


class Own:
    """The parameters of the layers themselves."""

    def of(self, layers: Layers, rows: Rows = None) -> Operands:
        return _joined([layer.parts() for layer in layers], _itself, rows)


OWN = Own()


@dataclass(frozen=True)
class Given:
    """One tensor that has all parameters, and the operands that were made of it for the whole pass."""

    replicas: int
    find: Find
    made: Mapping[Layers, Operands]

    def of(self, layers: Layers, rows: Rows = None) -> Operands:
        if rows is None and layers in self.made:
            return self.made[layers]
        parts = [layer.parts() for layer in layers]
        return self._single(parts[0]) if rows is None and len(parts) == 1 else _joined(parts, self._apart, rows)

    def _single(self, parts: Parts) -> Operands:
        kernels, *others = parts
        flat = self.find(kernels).view(-1, *kernels.shape[2:])
        return Operands(flat, *(None if part is None else self.find(part) for part in others))

    def _apart(self, parameter: Tensor) -> Tensor:
        return self.find(parameter).view(self.replicas, *parameter.shape[1:])


@dataclass(frozen=True)
class Plan:
    """How all operands of a pass are made of the parameters.

    Attributes:
        places: of every number of the parameters among those that are made.
        sizes: of the operands, one after the other.
        shapes: of the operands of each group, None where it has none of a kind.
    """

    places: Int[Tensor, " replicas_size"]
    sizes: tuple[int, ...]
    groups: tuple[Layers, ...]
    shapes: tuple[tuple[torch.Size | None, ...], ...]

    def make(self, flat: Flat) -> dict[Layers, Operands]:
        made = flat.new_zeros(sum(self.sizes)).index_copy(0, self.places, flat.flatten())
        parts = iter(made.split(self.sizes))
        return {
            group: _each(row, lambda shape: next(parts).view(shape))
            for group, row in zip(self.groups, self.shapes, strict=True)
        }


@runtime_checkable
class Packed(Protocol):
    """A network whose passes may be given all weights as one tensor."""

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def computed_as_one(self, sizes_join: bool) -> Sequence[Layers]:
        """Return the modules of a pass that leaves nothing out, in groups that are computed as one each."""
        ...


class Packing:
    """What a network remembers of how its parameters stand side by side; it does not keep the network alive."""

    def __init__(self) -> None:
        self.order: dict[int, int] = {}  # by their ids: a network on its device keeps its parameters
        self.sizes: list[int] = []
        self.plans: dict[tuple[bool, int, torch.device], Plan] = {}
        self.cuts: dict[tuple[int, torch.device], Tensor] = {}

    def __reduce__(self) -> tuple[type["Packing"], tuple[()]]:
        """Return how a copy is made: it remembers nothing, since the parameters of a copied network have other ids."""
        return Packing, ()

    def whole(self, network: Packed, flat: Flat, sizes_join: bool) -> Given:
        """Return the weights of a pass that leaves nothing out, all of them made at once."""
        self._see(network, flat)
        key = sizes_join, len(flat), flat.device
        if key not in self.plans:
            self.plans[key] = self._plan(network.computed_as_one(sizes_join), len(flat), flat.device)
        return Given(len(flat), self._finder(flat), self.plans[key].make(flat))

    def some(self, network: Packed, flat: Flat) -> Given:
        """Return the weights of a pass that may leave some out, each made when it is asked for."""
        self._see(network, flat)
        return Given(len(flat), self._finder(flat), {})

    def _see(self, network: Packed, flat: Flat) -> None:
        if not self.order:
            parameters = list(network.parameters())
            self.order = {id(parameter): place for place, parameter in enumerate(parameters)}
            self.sizes = [parameter[0].numel() for parameter in parameters]
        if flat.shape[1:] != (sum(self.sizes),):
            raise ValueError(f"expected weights of shape (replicas, {sum(self.sizes)}), got {tuple(flat.shape)}")

    def _finder(self, flat: Shaped[Tensor, "replicas size"]) -> Find:
        """Return what finds a parameter in one tensor; all are cut out at once when the first is asked for."""
        parts: list[Tensor] = []

        def find(parameter: Tensor) -> Tensor:
            if id(parameter) not in self.order:
                raise ValueError("expected weights as one tensor or by name, got both")
            if not parts:
                parts.extend(self._cut(flat))
            return parts[self.order[id(parameter)]]

        return find

    def _cut(self, flat: Shaped[Tensor, "replicas size"]) -> Sequence[Shaped[Tensor, " _replicas_part"]]:
        """Return the numbers of every parameter, those of all replicas one after the other."""
        replicas, key = len(flat), (len(flat), flat.device)
        if replicas == 1:
            return flat[0].split(self.sizes)
        if key not in self.cuts:
            numbers = torch.arange(flat.numel()).view(replicas, -1)
            wanted = torch.cat([part.flatten() for part in numbers.split(self.sizes, 1)])
            self.cuts[key] = wanted.argsort().to(flat.device)
        made = torch.empty_like(flat).flatten().index_copy(0, self.cuts[key], flat.flatten())
        return made.split([replicas * size for size in self.sizes])

    def _plan(self, groups: Sequence[Layers], replicas: int, device: torch.device) -> Plan:
        # The operands of parameters that are numbered say where each number goes; zeros are what stands around kernels.
        numbers = torch.arange(1, replicas * sum(self.sizes) + 1).view(replicas, -1)
        numbered = Given(replicas, self._finder(numbers), {})
        rows = [numbered.of(group) for group in groups]
        made = torch.cat([operand.flatten() for row in rows for operand in row if operand is not None])
        places = torch.full((numbers.numel() + 1,), -1).index_copy(0, made, torch.arange(len(made)))[1:]
        assert (places >= 0).all(), "every parameter is one of a group's"
        shapes = tuple(tuple(None if operand is None else operand.shape for operand in row) for row in rows)
        sizes = tuple(shape.numel() for row in shapes for shape in row if shape is not None)
        return Plan(places.to(device), sizes, tuple(groups), shapes)


def lay_side_by_side(network: nn.Module) -> None:
    """Lay the parameters of every replica side by side in memory, in their order; their values stay."""
    parameters = list(network.parameters())
    flat = torch.cat([parameter.detach().flatten(1) for parameter in parameters], 1)
    parts = flat.split([parameter[0].numel() for parameter in parameters], 1)
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.data = part.unflatten(1, parameter.shape[1:])


def _each(four: Sequence[Kind | None], make: Callable[[Kind], Tensor]) -> Operands:
    """Return what is made of each kind of four that is there; kernels are."""
    kernels, *others = four
    assert kernels is not None
    return Operands(make(kernels), *(None if part is None else make(part) for part in others))


def _itself(parameter: Tensor) -> Tensor:
    return parameter


def _joined(parts: Sequence[Parts], get: Callable[[Tensor], Tensor], rows: Rows) -> Operands:
    """Return the operands of layers side by side, of some replicas if rows are given; `get` finds a parameter."""
    pick = get if rows is None else lambda parameter: get(parameter)[rows]
    if len(parts) == 1:
        return _each(parts[0], lambda part: pick(part).flatten(0, 1))
    found = [[None if part is None else pick(part) for part in layer] for layer in parts]
    kernels, *others = zip(*found, strict=True)
    return Operands(torch.cat(_widened(kernels), 1).flatten(0, 1), *(_concatenated(each) for each in others))


def _concatenated(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there, 1).flatten() if there else None


def _widened(kernels: Sequence[Tensor]) -> list[Tensor]:
    """Return kernels of one side, smaller ones with zeros around them."""
    side = max(kernel.shape[-1] for kernel in kernels)
    return [k if k.shape[-1] == side else F.pad(k, [(side - k.shape[-1]) // 2] * 4) for k in kernels]
