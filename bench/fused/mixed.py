"""A mixed operation as one function: normalisation, ReLU, mixing weights and sum of all its branches.

torch's own operations read and write the maps of a node some fifty times a step (three branches, two of them
normalised, forward and backward), these 17 times. With x̂ = (x−μ)·s, s = 1/√(σ²+ε), N numbers a channel, φ ReLU or
nothing, and a table of a = γs (1 where nothing is normalised), μ, b = β, w and s of all branches of all edges:

    zₖ = aₖ(xₖ−μₖ) + bₖ     y = Σₖ wₖ·φ(zₖ)     mₖ = φ'(zₖ)     S = Σ g·mₖ     T = Σ g·mₖ·(xₖ−μₖ)
    ∂L/∂wₖ = aₖT + bₖS     ∂L/∂γₖ = wₖsT     ∂L/∂βₖ = wₖS     ∂L/∂xₖ = pₖ·g·mₖ + qₖ(xₖ−μₖ) + rₖ
    pₖ = wₖaₖ     rₖ = −pₖS/N, qₖ = −pₖs²T/N where it is normalised, else 0

Four kernels read maps: sums of x, y, S and T, ∂L/∂x; two between them make tables of channels. Sums over images and
pixels are of stretches, then of those: the same order every time. It is differentiated once; λ has kernels of its own
(`bench.kernels`). Weighted sums without normalisation, of parents and of a cell's output, are the same function.

Source: Ioffe, Szegedy (2015), Batch Normalization, https://arxiv.org/abs/1502.03167; the kernels are ours.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bench.autodiff import last_derivatives
from bench.batch_norm import EPS
from bench.fused import launch
from bench.mixture import Branch, Factors, Maps

Table = Float[Tensor, "edges branches rc"]
Numbers = Float[Tensor, "edges branches five rc"]


class Shape(NamedTuple):
    """What kernels are compiled for.

    Attributes:
        width: channels of a replica.
        wide, relu, normalised: of every branch.
    """

    width: int
    edges: int
    wide: tuple[bool, ...]
    relu: tuple[bool, ...]
    normalised: tuple[bool, ...]

    def flags(self) -> list[int]:
        return [self.width, self.edges, bits(self.wide), bits(self.relu), bits(self.normalised)]


def bits(flags: Sequence[bool]) -> int:
    """Return flags of branches as a number."""
    return sum(1 << k for k, flag in enumerate(flags) if flag)


def mixed(factors: Sequence[Sequence[Factors]], branches: Sequence[Branch], replicas: int) -> tuple[Maps, ...]:
    """Return the mixture of the branches for every edge.

    Args:
        factors: of every branch, for every edge: one for each channel, or one for the map of a single replica.
        branches: at least one.
        replicas: of the maps.
    """
    edges, (first, *_) = len(factors), branches
    channels = first.maps.shape[1] // (edges if first.wide else 1)
    kinds = zip(*((branch.wide, branch.relu, branch.normalised) for branch in branches), strict=True)
    shape = Shape(channels // replicas, edges, *kinds)
    table = torch.stack([factor.flatten().expand(channels) for row in factors for factor in row])
    tensors = [tensor for branch in branches for tensor in (branch.maps, branch.scale, branch.shift)]
    found: tuple[Maps, ...] = _Mixed.apply(shape, table.view(edges, len(branches), channels), *tensors)
    return found


def mixture(factors: Sequence[Factors], terms: Sequence[Maps]) -> Maps:
    """Return Σₖ factors[k]·terms[k], as `bench.mixture` does."""
    return mixed([factors], [Branch(maps) for maps in terms], 1)[0]


class _Mixed(torch.autograd.Function):
    """Tensors are maps, scale and shift of every branch."""

    @staticmethod
    def forward(ctx: Any, shape: Shape, factors: Table, *tensors: Tensor | None) -> tuple[Maps, ...]:
        maps = [part.contiguous() for part in tensors[::3] if part is not None]
        table = _prepared(shape, factors, maps, tensors)
        found = tuple(
            maps[0].new_empty(len(maps[0]), factors.shape[-1], *maps[0].shape[2:]) for _ in range(shape.edges)
        )
        launch.OPS.mix(found, maps, table, shape.flags())
        ctx.shape = shape
        ctx.save_for_backward(table, *maps)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        table, *maps = ctx.saved_tensors
        with torch.no_grad():
            dense = [part.contiguous() for part in gradients]
            found = _derivatives(ctx.shape, table, maps, dense, ctx.needs_input_grad[1:])
        return None, *last_derivatives(found, (*gradients, *ctx.saved_tensors))


def _prepared(shape: Shape, factors: Table, maps: Sequence[Maps], tensors: Sequence[Tensor | None]) -> Numbers:
    """Return a, μ, b, w and s of every branch of every edge."""
    count = maps[0][:, 0].numel()
    sums = []
    for x, own in zip(maps, shape.normalised, strict=True):
        sums.append(x.new_empty(2, launch.stretches(count), x.shape[1], dtype=factors.dtype) if own else factors)
        if own:
            launch.OPS.sums(x, sums[-1])
    table = factors.new_empty(*factors.shape[:2], 5, factors.shape[-1])
    first = [x[:1] for x in maps]
    launch.OPS.prepare(table, factors, first, sums, tensors[1::3], tensors[2::3], count, EPS, shape.flags())
    return table


def _derivatives(
    shape: Shape, table: Numbers, maps: Sequence[Maps], gradients: Sequence[Maps], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Return the gradients of the factors, and of maps, scale and shift of every branch, where they are wanted."""
    of_factors, of_maps, of_scales, of_shifts = wanted[0], wanted[1::3], wanted[2::3], wanted[3::3]
    needed = zip(shape.normalised, of_maps, of_scales, of_shifts, strict=True)
    summed = [of_factors or (own and any(of)) for own, *of in needed]
    dots = _dots(shape, table, maps, gradients, summed)
    count = maps[0][:, 0].numel()
    slopes, to_factors, to_scales, to_shifts = _concluded(shape, table, dots, wanted, [count, bits(summed)])
    to_maps = [torch.empty_like(x) if asked else None for x, asked in zip(maps, of_maps, strict=True)]
    if any(of_maps):
        written = [table if part is None else part for part in to_maps]
        read = [table if part is None else x for x, part in zip(maps, to_maps, strict=True)]  # others are not touched
        launch.OPS.backward(written, gradients, read, table, slopes, [*shape.flags(), bits(of_maps)])
    branches = zip(to_maps, to_scales, to_shifts, strict=True)
    return [to_factors if of_factors else None, *(part for branch in branches for part in branch)]


def _dots(
    shape: Shape, table: Numbers, maps: Sequence[Maps], gradients: Sequence[Maps], wanted: Sequence[bool]
) -> Float[Tensor, "stretches edges branches two rc"]:
    """Return S and T of the branches that are wanted, of every stretch; nothing elsewhere."""
    stretches = launch.stretches(maps[0][:, 0].numel()) if any(wanted) else 0
    found = table.new_empty(stretches, *table.shape[:2], 2, table.shape[-1])
    if any(wanted):
        read = [x if asked else table for x, asked in zip(maps, wanted, strict=True)]  # others are not touched
        launch.OPS.dots(gradients, read, table, found, [*shape.flags(), bits(wanted)])
    return found


def _concluded(
    shape: Shape, table: Numbers, dots: Tensor, wanted: Sequence[bool], counts: Sequence[int]
) -> tuple[Tensor, Table, list[Tensor | None], list[Tensor | None]]:
    """Return p, q, r, and the gradients of the factors, of scales and of shifts.

    Counts are the numbers of a channel, and the bits of the branches that have sums.
    """
    channels = table.shape[-1]
    widths = [channels * (shape.edges if wide else 1) for wide in shape.wide]
    to_scales, to_shifts = (
        [table.new_empty(width) if asked else None for width, asked in zip(widths, wanted[first::3], strict=True)]
        for first in (2, 3)
    )
    slopes, to_factors = table.new_empty(*table.shape[:2], 3, channels), table.new_empty(*table.shape[:2], channels)
    written = [[table if part is None else part for part in parts] for parts in (to_scales, to_shifts)]
    count, summed = counts
    flags = [*shape.flags(), summed, bits(wanted[2::3]), bits(wanted[3::3])]
    launch.OPS.conclude(slopes, to_factors, *written, table, dots, count, flags)
    return slopes, to_factors, to_scales, to_shifts
