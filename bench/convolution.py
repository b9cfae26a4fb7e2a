"""Grouped convolution of maps with constant kernels, whose second derivative is one convolution of all groups at once.

torch's own double backward of a convolution computes the kernels' part whether it is asked for or not, in a loop over
the groups, and a replica is a group: with 16 replicas a third of a Hessian-vector product in the logits went there,
where kernels are constants. With x ⋆ W the convolution, W ⊤ g its derivative by the maps, and v that of the first
derivative:

    y = x ⋆ W + b       ∂L/∂x = W ⊤ g       F = ⟨v, W ⊤ g⟩       ∂F/∂g = v ⋆ W

All of it is linear in x, so higher derivatives are right too. Kernels that get a gradient go through torch's function:
one written by hand would compute their gradient where only that of the logits is asked for.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bench.layout import innermost, unset

Maps = Float[Tensor, "n _channels _h _w"]
Kernels = Float[Tensor, "out _into side side"]
Channels = Float[Tensor, " out"]


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
    return innermost(torch.conv2d(innermost(x), kernels, bias, stride, padding, 1, groups))
