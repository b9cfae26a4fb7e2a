"""A weighted sum of maps, each channel with its own weights, whose derivatives are one step of the graph each.

Mixed operations are most of a supernet's graph: torch would record the views, products and sums of every option, and
the derivative of each of them. Written by hand, with g the gradient of the output, vₖ and uₖ those of the derivatives:

    y = Σₖ wₖ·xₖ       ∂L/∂xₖ = wₖ·g       ∂L/∂wₖ = Σ g·xₖ
    F = Σₖ ⟨vₖ, wₖ·g⟩ + uₖ·Σ g·xₖ          ∂F/∂g = Σₖ wₖ·vₖ + uₖ·xₖ      ∂F/∂wₖ = Σ vₖ·g      ∂F/∂xₖ = uₖ·g

Third derivatives raise. What is differentiated once is faster as torch records it, without Python in its graph.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bench.autodiff import last_derivatives
from bench.layout import innermost

Maps = Float[Tensor, "n _rc _h _w"]
Factors = Float[Tensor, "_rc 1 1"]
"""An option's factors: one for every channel, or a single one for the map of a single replica."""


class Branch(NamedTuple):
    """One term of a mixed operation, or of those of several edges, before it is normalised.

    Attributes:
        wide: whether every edge has maps of its own, side by side within each replica; else all edges share them.
        normalised: over images and pixels, then with scale and shift where there are any.
    """

    maps: Maps
    wide: bool = False
    normalised: bool = False
    relu: bool = False
    scale: Float[Tensor, " channels"] | None = None
    shift: Float[Tensor, " channels"] | None = None


def columns(weights: Float[Tensor, "replicas *decisions options"], channels: int) -> Sequence[Factors]:
    """Return the factors of every option of every decision, for maps of so many channels.

    A single number multiplies a map three times as fast as one for every channel where those are few.
    """
    replicas = weights.shape[0]
    flat = weights.flatten(1)
    if replicas == 1:
        return flat.view(-1, 1, 1, 1).unbind(0)
    wide = flat.mT[:, :, None].expand(-1, -1, channels // replicas)
    return wide.reshape(-1, channels, 1, 1).unbind(0)


def torch_mixture(factors: Sequence[Factors], terms: Sequence[Maps]) -> Maps:
    """Return what `mixture` does, to the same bits; cheap to differentiate once.

    Factors may be of a wider type than the maps: the sum is taken in theirs and rounded once.
    """
    total = terms[0] * factors[0]
    for factor, term in zip(factors[1:], terms[1:], strict=True):
        total = torch.addcmul(total, term, factor)
    return total.to(terms[0].dtype)


def mixture(factors: Sequence[Factors], terms: Sequence[Maps]) -> Maps:
    """Return Σₖ factors[k]·terms[k]; cheap to differentiate twice."""
    found: Maps = _Mixture.apply(len(factors), *factors, *terms)
    return found


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> Maps:
        ctx.save_for_backward(*tensors)
        ctx.count = count
        return _sum(tensors[:count], tensors[count:])

    @staticmethod
    def backward(ctx: Any, gradient: Maps) -> tuple[Tensor | None, ...]:
        return None, *_Backward.apply(ctx.needs_input_grad[1:], gradient, *ctx.saved_tensors)


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, wanted: tuple[bool, ...], gradient: Maps, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        gradient = innermost(gradient)
        ctx.save_for_backward(gradient, *tensors)
        ctx.set_materialize_grads(False)
        count = len(tensors) // 2
        factors, terms = tensors[:count], tensors[count:]
        to_factors = [
            _dot(gradient, x, w) if asked else None for w, x, asked in zip(factors, terms, wanted[:count], strict=True)
        ]
        to_terms = [gradient * w if asked else None for w, asked in zip(factors, wanted[count:], strict=True)]
        return *to_factors, *to_terms

    @staticmethod
    def backward(ctx: Any, *uv: Tensor | None) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            found = _derivatives(ctx.saved_tensors, uv)
        return None, *last_derivatives(found, (*uv, *ctx.saved_tensors))


def _derivatives(saved: Sequence[Tensor], uv: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """Return what gradient, factors and terms get from the derivatives u, v of the outputs of the first derivative."""
    count = len(uv) // 2
    gradient, factors, terms, u = saved[0], saved[1 : 1 + count], saved[1 + count :], uv[:count]
    v = [None if part is None else innermost(part) for part in uv[count:]]
    to_factors = [None if part is None else _dot(part, gradient, w) for part, w in zip(v, factors, strict=True)]
    to_terms = [None if factor is None else gradient * factor for factor in u]
    pairs = [(w, x) for w, x in zip((*factors, *u), (*v, *terms), strict=True) if w is not None and x is not None]
    return _sum(*zip(*pairs, strict=True)) if pairs else None, *to_factors, *to_terms


def _dot(a: Maps, b: Maps, like: Factors) -> Factors:
    """Return the sums of the products of two maps, one for each factor."""
    product = a * b
    return product.sum().view(1, 1, 1) if like.shape[0] == 1 else product.sum((0, 2, 3))[:, None, None]


def _sum(factors: Sequence[Factors], terms: Sequence[Maps]) -> Maps:
    total = terms[0] * factors[0]
    for factor, term in zip(factors[1:], terms[1:], strict=True):
        total.addcmul_(term, factor)
    return total
