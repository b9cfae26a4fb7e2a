"""A mixed operation as one function: normalisation, ReLU, mixing weights and sum of all its branches.

torch's own operations read and write the maps of a node some fifty times a step (three branches, two of them
normalised, forward and backward), these 17 times. With x̂ = (x−μ)·s, s = 1/√(σ²+ε), N numbers a channel, φ ReLU or
nothing, and one table of factors a = γs (1 where nothing is normalised), μ, b = β for all branches of all edges:

    zₖ = aₖ(xₖ−μₖ) + bₖ     y = Σₖ wₖ·φ(zₖ)     mₖ = φ'(zₖ)     S = Σ g·mₖ     T = Σ g·mₖ·(xₖ−μₖ)
    ∂L/∂wₖ = aₖT + bₖS     ∂L/∂γₖ = wₖsT     ∂L/∂βₖ = wₖS     ∂L/∂xₖ = pₖ·g·mₖ + qₖ(xₖ−μₖ) + rₖ
    pₖ = wₖaₖ     rₖ = −pₖS/N, qₖ = −pₖs²T/N where it is normalised, else 0

Four kernels: sums of x, y, S and T, ∂L/∂x. Sums over images and pixels are of stretches, then of those: the same order
every time. It is differentiated once; λ has kernels of its own (`bench.kernels`). Weighted sums without normalisation,
of a node's parents and of a cell's output, are the same function.

Source: Ioffe, Szegedy (2015), Batch Normalization, https://arxiv.org/abs/1502.03167; the kernels are ours.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from bench.autodiff import last_derivatives
from bench.batch_norm import EPS
from bench.fused import device
from bench.mixture import Branch, Factors, Maps

BLOCK = 1024
LENGTH = 8192
"""Numbers of a channel that one program adds up."""

Channels = Float[Tensor, " channels"]
Table = Float[Tensor, "edges branches rc"]


class Shape(NamedTuple):
    """What kernels are compiled for.

    Attributes:
        width: channels of a replica.
        normalised, relu, wide: of every branch.
    """

    edges: int
    replicas: int
    width: int
    normalised: tuple[bool, ...]
    relu: tuple[bool, ...]
    wide: tuple[bool, ...]


def mixed(factors: Sequence[Sequence[Factors]], branches: Sequence[Branch], replicas: int) -> tuple[Maps, ...]:
    """Return the mixture of the branches for every edge.

    Args:
        factors: of every branch, for every edge: one for each channel, or one for the map of a single replica.
        branches: at least one.
        replicas: of the maps.
    """
    edges, (first, *_) = len(factors), branches
    channels = first.maps.shape[1] // (edges if first.wide else 1)
    kinds = zip(*((branch.normalised, branch.relu, branch.wide) for branch in branches), strict=True)
    shape = Shape(edges, replicas, channels // replicas, *kinds)
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
        moments = [_moments(x, factors.dtype) if own else None for x, own in zip(maps, shape.normalised, strict=True)]
        numbers = _numbers(shape, factors, moments, tensors)
        ctx.shape = shape
        ctx.save_for_backward(factors, *numbers, *maps)
        return _mix(shape, maps, torch.stack([*numbers[:3], factors], 2))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        wanted = tuple(ctx.needs_input_grad[1:])
        with torch.no_grad():
            found = _derivatives(ctx.shape, ctx.saved_tensors, [part.contiguous() for part in gradients], wanted)
        return None, *last_derivatives(found, (*gradients, *ctx.saved_tensors))


class _Numbers(NamedTuple):
    """Of every branch of every edge; the inverse is that of the deviation, zero where nothing is normalised."""

    factor: Table
    mean: Table
    shift: Table
    inverse: Table


def _numbers(
    shape: Shape,
    factors: Table,
    moments: Sequence[tuple[Channels, Channels] | None],
    tensors: Sequence[Tensor | None],
) -> _Numbers:
    """Return what the maps are moved and scaled by."""
    rows: list[tuple[Tensor, ...]] = []
    one, zero = factors.new_ones(factors.shape[-1]), factors.new_zeros(factors.shape[-1])
    for k, found in enumerate(moments):
        if found is None:
            rows.append(tuple(part.expand(shape.edges, -1) for part in (one, zero, zero, zero)))
            continue
        (mean, inverse), scale, shift = found, tensors[3 * k + 1], tensors[3 * k + 2]
        factor = inverse if scale is None else inverse * scale
        parts = (factor, mean, torch.zeros_like(mean) if shift is None else shift, inverse)
        rows.append(tuple(_of_edges(part, shape, k) for part in parts))
    return _Numbers(*(torch.stack(kind, 1) for kind in zip(*rows, strict=True)))


def _of_edges(values: Channels, shape: Shape, k: int) -> Float[Tensor, "edges rc"]:
    """Return the numbers of a branch's channels, edge by edge."""
    if not shape.wide[k]:
        return values.expand(shape.edges, -1)
    return values.view(shape.replicas, shape.edges, shape.width).transpose(0, 1).flatten(1)


def _of_channels(values: Float[Tensor, "edges rc"], shape: Shape, k: int) -> Channels:
    """Return what `_of_edges` would get its numbers from: gradients, summed where edges share channels."""
    if not shape.wide[k]:
        return values.sum(0)
    return values.view(shape.edges, shape.replicas, shape.width).transpose(0, 1).flatten()


def _derivatives(
    shape: Shape, saved: Sequence[Tensor], gradients: Sequence[Maps], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Return the gradients of the factors, and of maps, scale and shift of every branch, where they are wanted."""
    factors, numbers, maps = saved[0], _Numbers(*saved[1:5]), saved[5:]
    of_maps, count = wanted[1::3], maps[0].shape[0] * maps[0].shape[2:].numel()
    asked = [wanted[0] or (own and any(wanted[1 + 3 * k : 4 + 3 * k])) for k, own in enumerate(shape.normalised)]
    s, t = _dots(shape, maps, gradients, torch.stack(numbers[:3], 2), asked).unbind(2)
    p = factors * numbers.factor
    table = torch.stack([*numbers[:3], p, -p * numbers.inverse.square() * t / count, -p * s / count], 2)
    to_maps = _backward(shape, maps, gradients, table, of_maps)
    to_scale, to_shift = factors * numbers.inverse * t, factors * s
    found = [numbers.factor * t + numbers.shift * s if wanted[0] else None]
    for k, to_map in enumerate(to_maps):
        found += [
            to_map,
            _of_channels(to_scale[:, k], shape, k) if wanted[2 + 3 * k] else None,
            _of_channels(to_shift[:, k], shape, k) if wanted[3 + 3 * k] else None,
        ]
    return found


def _moments(x: Maps, dtype: torch.dtype) -> tuple[Channels, Channels]:
    """Return mean and inverse deviation of every channel, of the type that is computed in."""
    (n, channels), pixels = x.shape[:2], x.shape[2:].numel()
    shifts, stretches = x[0, :, 0, 0].to(dtype).contiguous(), triton.cdiv(n * pixels, LENGTH)
    found = x.new_empty(2, stretches, channels, dtype=dtype)
    with torch.cuda.device_of(x):
        device.sums[stretches, channels](
            x, shifts, found, channels, n * pixels, PIXELS=pixels, LENGTH=LENGTH, BLOCK=BLOCK
        )
    first, second = found.sum(1) / (n * pixels)
    return shifts + first, (second - first.square()).clamp_min(0).add(EPS).rsqrt()


def _mix(shape: Shape, maps: Sequence[Maps], table: Tensor) -> tuple[Maps, ...]:
    n, channels, pixels = maps[0].shape[0], table.shape[-1], maps[0].shape[2:]
    found = tuple(maps[0].new_empty(n, channels, *pixels) for _ in range(shape.edges))
    count = n * pixels.numel()
    with torch.cuda.device_of(maps[0]):
        device.mix[triton.cdiv(count, BLOCK), channels](
            found, tuple(maps), table, channels, count, **_compiled(shape, pixels), BLOCK=BLOCK
        )
    return found


def _dots(
    shape: Shape, maps: Sequence[Maps], gradients: Sequence[Maps], table: Tensor, wanted: Sequence[bool]
) -> Float[Tensor, "edges branches two rc"]:
    """Return S and T of the branches that are wanted, zero elsewhere."""
    count, channels, pixels = gradients[0].shape[0] * gradients[0].shape[2:].numel(), table.shape[-1], maps[0].shape[2:]
    stretches = triton.cdiv(count, LENGTH)
    found = table.new_zeros(stretches, *table.shape[:2], 2, channels)
    if any(wanted):
        with torch.cuda.device_of(maps[0]):
            device.dots[stretches, channels](
                tuple(gradients), tuple(maps), table, found, channels, count, **_compiled(shape, pixels),
                NORMAL=_bits(shape.normalised), WANTED=_bits(wanted), LENGTH=LENGTH, BLOCK=BLOCK,
            )  # fmt: skip
    return found.sum(0)


def _backward(
    shape: Shape, maps: Sequence[Maps], gradients: Sequence[Maps], table: Tensor, wanted: Sequence[bool]
) -> list[Maps | None]:
    """Return the gradients of the maps that are wanted."""
    count, channels, pixels = gradients[0].shape[0] * gradients[0].shape[2:].numel(), table.shape[-1], maps[0].shape[2:]
    found = [torch.empty_like(x) if asked else None for x, asked in zip(maps, wanted, strict=True)]
    if any(wanted):
        written = tuple(x if part is None else part for x, part in zip(maps, found, strict=True))
        with torch.cuda.device_of(maps[0]):
            device.backward[triton.cdiv(count, BLOCK), channels](
                written, tuple(gradients), tuple(maps), table, channels, count, **_compiled(shape, pixels),
                WANTED=_bits(wanted), BLOCK=BLOCK,
            )  # fmt: skip
    return found


def _compiled(shape: Shape, pixels: torch.Size) -> dict[str, int]:
    return {"WIDTH": shape.width, "PIXELS": pixels.numel(), "WIDE": _bits(shape.wide), "RELU": _bits(shape.relu)}


def _bits(flags: Sequence[bool]) -> int:
    return sum(1 << k for k, flag in enumerate(flags) if flag)
