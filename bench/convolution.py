"""Grouped convolution of maps with constant kernels, whose second derivative is one convolution of all groups at once.

torch's own double backward of a convolution computes the kernels' part whether it is asked for or not, in a loop over
the groups, and a replica is a group: with 16 replicas a third of a Hessian-vector product in the logits went there,
where kernels are constants. With x ⋆ W the convolution, W ⊤ g its derivative by the maps, and v that of the first
derivative:

    y = x ⋆ W + b       ∂L/∂x = W ⊤ g       F = ⟨v, W ⊤ g⟩       ∂F/∂g = v ⋆ W

All of it is linear in x, so higher derivatives are right too. Kernels that get a gradient go through torch's function:
one written by hand would compute their gradient where only that of the logits is asked for.

A 1×1 convolution of one replica is a product of matrices, pixels by channels. On a CPU the call of a convolution costs
more than a small product, whose derivatives are products again, so a map of at most 2¹⁷ numbers goes that way. CPU
time of an output and all derivatives, µs (medians taking turns, float32, one thread of an AMD EPYC, torch 2.13):

    images, pixels, channels       numbers of the map   convolution   product
    32, 3×3,   16 → 16                          4,608           185        70
    32, 8×8,    4 → 4                           8,192           196       108
    32, 8×8,    4 → 32                          8,192           223       219
    32, 5×5,   16 → 64                         12,800           238       141
    64, 8×8,   32 → 32                        131,072           436       383
    64, 16×16, 16 → 16                        262,144           456       449
    64, 8×8,   64 → 64                        262,144         1,152     1,190
    96, 17×17, 16 → 16                        443,904           640       714
    96, 9×9,   64 → 64                        497,664         2,043     2,289
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from bench.layout import channels_innermost, innermost, unset

Maps = Float[Tensor, "n _channels _h _w"]
Kernels = Float[Tensor, "out _into side side"]
Channels = Float[Tensor, " out"]

SMALL = 2**17
"""The most numbers of a map whose 1×1 convolution is computed as a product of matrices."""


class Geometry(NamedTuple):
    """Stride, padding and groups."""

    stride: int
    padding: int
    groups: int


def convolution(x: Maps, kernels: Kernels, bias: Channels | None, geometry: Geometry) -> Maps:
    """Convolve the channels of every group with its own kernels; cheap to differentiate twice."""
    if kernels.requires_grad or (bias is not None and bias.requires_grad):
        return torch_convolution(x, kernels, bias, geometry)
    found: Maps = _Convolve.apply(x, kernels, bias, geometry)
    return found


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Maps, kernels: Kernels, bias: Channels | None, geometry: Geometry) -> Maps:
        ctx.save_for_backward(kernels)
        ctx.geometry, ctx.like = geometry, x.shape
        return torch_convolution(x, kernels, bias, geometry)

    @staticmethod
    def backward(ctx: Any, gradient: Maps) -> tuple[Maps, None, None, None]:
        return _Backward.apply(gradient, *ctx.saved_tensors, ctx.geometry, ctx.like), None, None, None


class _Backward(torch.autograd.Function):
    """The derivative by the maps, as a function of the gradient; the transposed convolution."""

    @staticmethod
    def forward(ctx: Any, gradient: Maps, kernels: Kernels, geometry: Geometry, like: torch.Size) -> Maps:
        ctx.save_for_backward(kernels)
        ctx.geometry = geometry
        stride, padding, groups = geometry
        gradient = innermost(gradient)
        if _is_small_product(gradient, kernels, geometry):
            return _product(gradient, kernels.transpose(0, 1), None)
        shaped = unset(like, gradient)
        found: Maps = torch.ops.aten.convolution_backward(
            gradient,
            shaped,
            kernels,
            None,
            [stride] * 2,
            [padding] * 2,
            [1, 1],
            False,
            [0, 0],
            groups,
            [True, False, False],
        )[0]
        return innermost(found)

    @staticmethod
    def backward(ctx: Any, v: Maps) -> tuple[Maps, None, None, None]:
        (kernels,) = ctx.saved_tensors
        return convolution(v, kernels, None, ctx.geometry), None, None, None


def torch_convolution(x: Maps, kernels: Kernels, bias: Channels | None, geometry: Geometry) -> Maps:
    """Convolve as `convolution` does, to the same bits; cheap to differentiate once."""
    stride, padding, groups = geometry
    x = innermost(x)
    if _is_small_product(x, kernels, geometry):
        return _product(x, kernels, bias)
    return innermost(torch.conv2d(x, kernels, bias, stride, padding, 1, groups))


def _is_small_product(x: Maps, kernels: Kernels, geometry: Geometry) -> bool:
    """Return whether a convolution is one product of matrices, and cheaper so."""
    pointwise = geometry == Geometry(stride=1, padding=0, groups=1) and kernels.shape[2:].numel() == 1
    return pointwise and channels_innermost(x.device) and x.numel() <= SMALL


def _product(x: Maps, kernels: Kernels, bias: Channels | None) -> Maps:
    """Convolve one replica's channels, which are innermost, with kernels of one pixel."""
    return functional.linear(x.permute(0, 2, 3, 1), kernels.flatten(1), bias).permute(0, 3, 1, 2)
