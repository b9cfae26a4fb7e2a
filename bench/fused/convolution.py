"""Grouped convolution of stride 1 and its derivatives as two Triton kernels; other strides are torch's.

A replica is a group, of 16 channels at the papers' first stage: too few for libraries' kernels to be made for, just
enough for a product of matrix units (16 × 16). The derivative by the maps is the convolution with kernels turned round;
that by the kernels is summed over stretches of pixels, then over stretches. Differentiated once.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bench.autodiff import last_derivatives
from bench.convolution import Channels, Geometry, Kernels, Maps, torch_convolution
from bench.fused import launch

FEWEST = 8
"""Input channels that make a product of matrix units worth it, which are 16 wide; an image has 3."""


def convolution(x: Maps, kernels: Kernels, bias: Channels | None, geometry: Geometry) -> Maps:
    """Convolve the channels of every group with its own kernels; cheap to differentiate once."""
    side = kernels.shape[-1]
    if kernels.shape[1] < FEWEST or geometry.stride != 1 or geometry.padding != side // 2 or side % 2 == 0:
        return torch_convolution(x, kernels, bias, geometry)
    found: Maps = _Convolve.apply(x.contiguous(), kernels, bias, geometry.groups)
    return found


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Maps, kernels: Kernels, bias: Channels | None, groups: int) -> Maps:
        ctx.save_for_backward(x, kernels)
        ctx.groups = groups
        return _convolved(x, _taps(kernels), bias, groups)

    @staticmethod
    def backward(ctx: Any, gradient: Maps) -> tuple[Tensor | None, ...]:
        x, kernels = ctx.saved_tensors
        of_x, of_kernels, of_bias, _ = ctx.needs_input_grad
        with torch.no_grad():
            dense, groups = gradient.contiguous(), ctx.groups
            found = (
                _convolved(dense, _taps(_turned(kernels, groups)), None, groups) if of_x else None,
                _of_kernels(x, dense, kernels, groups) if of_kernels else None,
                dense.sum((0, 2, 3)) if of_bias else None,
            )
        return *last_derivatives(found, (gradient, x, kernels)), None


def _taps(kernels: Kernels) -> Float[Tensor, "taps out _into"]:
    """Return the kernels tap by tap, "taps out into"."""
    return kernels.flatten(2).permute(2, 0, 1).contiguous()


def _turned(kernels: Kernels, groups: int) -> Float[Tensor, "groups_into out_ side side"]:
    """Return what the derivative by the maps is a convolution with."""
    return kernels.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flip(2, 3)


def _convolved(x: Maps, taps: Float[Tensor, "taps out into"], bias: Channels | None, groups: int) -> Maps:
    found = x.new_empty(x.shape[0], taps.shape[1], *x.shape[2:])
    launch.OPS.convolve(found, x, taps, bias, groups)
    return found


def _of_kernels(x: Maps, gradient: Maps, kernels: Kernels, groups: int) -> Kernels:
    out, into, side, _ = kernels.shape
    wide = torch.promote_types(x.dtype, torch.float32)
    stretches = launch.stretches(x[:, 0].numel(), launch.PIXELS_ADDED)
    found = x.new_empty(stretches, side * side, out, into, dtype=wide)
    launch.OPS.of_kernels(found, gradient, x, groups)
    return found.sum(0).permute(1, 2, 0).unflatten(2, (side, side)).to(kernels.dtype)
