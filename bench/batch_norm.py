"""Batch normalisation with batch statistics: torch's own, and one whose second derivative costs a few operations.

torch's own double backward of batch norm is some thirty full-size operations, a quarter of a Hessian-vector product on
these networks. By hand it is one more call of the fused backward and two sums. With x̂ = (x−μ)·s, s = 1/√(σ²+ε), N
pixels a channel, P(u) = u − mean(u) − x̂·mean(u·x̂), which is self-adjoint, and F(v) = Σ v·γs·P(g):

    y = γx̂ + β        ∂L/∂x = γs·P(g)      ∂L/∂γ = Σ g·x̂      ∂L/∂β = Σ g
    ∂F/∂g = γs·P(v)   ∂F/∂γ = s·S          ∂F/∂x = −(s/N)·(γs·S·x̂ + Σ(g·x̂)·γs·P(v) + Σ(v·x̂)·γs·P(g)),   S = Σ v·P(g)

All of it is exact with ε > 0. Third derivatives raise. What is differentiated once is faster with torch's own, whose
graph no Python stands in.

Source: Ioffe, Szegedy (2015), Batch Normalization, https://arxiv.org/abs/1502.03167; the derivatives are ours.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bench.autodiff import last_derivatives
from bench.layout import innermost

EPS = 1e-5

Maps = Float[Tensor, "n channels _h _w"]
Channels = Float[Tensor, " channels"]


def torch_batch_norm(x: Maps, scale: Channels | None = None, shift: Channels | None = None) -> Maps:
    """Normalise every channel as `batch_norm` does, to the same bits; cheap to differentiate once."""
    return torch.native_batch_norm(x, _dense(scale), _dense(shift), None, None, True, 0.0, EPS)[0]


def batch_norm(x: Maps, scale: Channels | None = None, shift: Channels | None = None) -> Maps:
    """Normalise every channel over images and pixels, then scale and shift (1 and 0 where they are not given).

    Cheap to differentiate twice.
    """
    channels = x.shape[1]
    scale = x.new_ones(channels) if scale is None else scale
    shift = x.new_zeros(channels) if shift is None else shift
    found: Maps = _Normalise.apply(x, _dense(scale), _dense(shift))
    return found


def _dense(channels: Channels | None) -> Channels | None:
    """Return numbers side by side: torch's derivative misreads others where the channels of maps are innermost."""
    return None if channels is None else channels.contiguous()


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Maps, scale: Channels, shift: Channels) -> Maps:
        y, mean, inverse = torch.native_batch_norm(x, scale, shift, None, None, True, 0.0, EPS)
        ctx.save_for_backward(x, scale, mean, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Maps) -> tuple[Maps, Channels, Channels]:
        found: tuple[Maps, Channels, Channels] = _Backward.apply(gradient, *ctx.saved_tensors)
        return found


class _Saved(NamedTuple):
    """What the second derivative needs; the last three are the outputs of the first.

    Where the scale gets a gradient, the first of them is not kept but computed again, for both uses at once.
    """

    gradient: Maps
    x: Maps
    scale: Channels
    mean: Channels
    inverse: Channels
    first: Maps | None
    sum_gx: Channels
    sum_g: Channels


class _Backward(torch.autograd.Function):
    """The first derivative, as a function of gradient, input and scale; mean and inverse belong to the input."""

    @staticmethod
    def forward(
        ctx: Any, gradient: Maps, x: Maps, scale: Channels, mean: Channels, inverse: Channels
    ) -> tuple[Tensor, ...]:
        gradient = innermost(gradient)
        found = _first(gradient, x, scale, mean, inverse)
        first = None if ctx.needs_input_grad[2] else found[0]
        ctx.save_for_backward(gradient, x, scale, mean, inverse, first, *found[1:])
        ctx.set_materialize_grads(False)
        return found

    @staticmethod
    def backward(
        ctx: Any, v: Maps | None, of_scale: Channels | None, of_shift: Channels | None
    ) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            found = _derivatives(_Saved(*ctx.saved_tensors), v, of_scale, of_shift)
        return *last_derivatives(found, (v, of_scale, of_shift, *ctx.saved_tensors[:3])), None, None


def _derivatives(
    saved: _Saved, v: Maps | None, of_scale: Channels | None, of_shift: Channels | None
) -> tuple[Maps, Maps, Channels | None]:
    """Return what gradient, input and scale get from the derivatives of the three outputs of the first derivative."""
    x, inverse, mean = saved.x, saved.inverse, saved.mean
    nothing = torch.zeros_like(inverse)
    if v is None:
        to_gradient, to_x, to_scale, times_first = torch.zeros_like(x), torch.zeros_like(x), None, nothing
    else:
        to_gradient, to_x, to_scale, times_first = _second(innermost(v), saved)
    if saved.first is not None and of_scale is None and v is not None:
        to_x.addcmul_(saved.first, _wide(times_first))
    elif v is not None or of_scale is not None:
        unscaled = _first(saved.gradient, x, torch.ones_like(inverse), mean, inverse)[0]
        to_x.addcmul_(unscaled, _wide(times_first * saved.scale + (nothing if of_scale is None else of_scale)))
    if of_scale is not None:
        along = of_scale * inverse
        to_gradient.addcmul_(x, _wide(along)).sub_(_wide(along * mean))
    if of_shift is not None:
        to_gradient.add_(_wide(of_shift))
    return to_gradient, to_x, to_scale


def _first(gradient: Maps, x: Maps, scale: Channels, mean: Channels, inverse: Channels) -> tuple[Tensor, ...]:
    """Return γs·P(g), Σ g·x̂ and Σ g, from torch's fused kernel."""
    found: tuple[Tensor, ...] = torch.ops.aten.native_batch_norm_backward(
        gradient, x, scale, None, None, mean, inverse, True, EPS, [True, True, True]
    )
    return found


def _second(v: Maps, saved: _Saved) -> tuple[Maps, Maps, Channels, Channels]:
    """Return ∂F/∂g, ∂F/∂x without its last term, ∂F/∂γ, and the factor of γs·P(g) in that term."""
    gradient, x, scale, mean, inverse, _, sum_gx, sum_g = saved
    count = x.numel() // x.shape[1]
    to_gradient, sum_vx, sum_v = _first(v, x, scale, mean, inverse)
    inner = (v * gradient).sum((0, 2, 3)) - (sum_v * sum_g + sum_vx * sum_gx) / count
    factor = -inverse / count
    along = factor * scale * inverse.square() * inner
    to_x = torch.addcmul(_wide(-along * mean), x, _wide(along)).addcmul_(to_gradient, _wide(factor * sum_gx))
    return to_gradient, to_x, inverse * inner, factor * sum_vx


def _wide(channels: Channels) -> Float[Tensor, "channels 1 1"]:
    return channels[:, None, None]
