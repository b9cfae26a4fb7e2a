"""A weighted sum of maps, each replica with its own weights, whose derivatives are one step of the graph each.

Mixed operations are most of a supernet's graph: torch would record the views, products and sums of every option, and
the derivative of each of them. Written by hand, with g the gradient of the output, vₖ and uₖ those of the derivatives:

    y = Σₖ wₖ·xₖ       ∂L/∂xₖ = wₖ·g       ∂L/∂wₖ = Σ g·xₖ
    F = Σₖ ⟨vₖ, wₖ·g⟩ + uₖ·Σ g·xₖ          ∂F/∂g = Σₖ wₖ·vₖ + uₖ·xₖ      ∂F/∂wₖ = Σ vₖ·g      ∂F/∂xₖ = uₖ·g

Third derivatives raise. What is differentiated once is faster as torch records it, without Python in its graph.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bench.autodiff import last_derivatives
from bench.layout import innermost

Maps = Float[Tensor, "n _rc _h _w"]
Weights = Float[Tensor, "replicas options"]
Factors = Float[Tensor, "rc 1 1"]


def torch_mixture(weights: Weights, terms: Sequence[Maps]) -> Maps:
    """Return what `mixture` does, to the same bits; cheap to differentiate once.

    Weights may be of a wider type than the maps: the sum is taken in theirs and rounded once.
    """
    factors = _columns(weights, terms[0])
    total = terms[0] * factors[0]
    for factor, term in zip(factors[1:], terms[1:], strict=True):
        total = torch.addcmul(total, term, factor)
    return total.to(terms[0].dtype)


def mixture(weights: Weights, terms: Sequence[Maps]) -> Maps:
    """Return Σₖ weights[:, k]·terms[k] for every replica; a replica is a group of channels of the maps.

    Cheap to differentiate twice.
    """
    found: Maps = _Mixture.apply(weights, *terms)
    return found


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Weights, *terms: Maps) -> Maps:
        ctx.save_for_backward(weights, *terms)
        return _sum(_columns(weights, terms[0]), terms)

    @staticmethod
    def backward(ctx: Any, gradient: Maps) -> tuple[Tensor | None, ...]:
        found: tuple[Tensor | None, ...] = _Backward.apply(ctx.needs_input_grad, gradient, *ctx.saved_tensors)
        return found


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, wanted: tuple[bool, ...], gradient: Maps, weights: Weights, *terms: Maps
    ) -> tuple[Tensor | None, ...]:
        gradient = innermost(gradient)
        ctx.save_for_backward(gradient, weights, *terms)
        ctx.set_materialize_grads(False)
        to_weights = _dots([(gradient, x) for x in terms], gradient, len(weights)) if wanted[0] else None
        factors = zip(_columns(weights, gradient), wanted[1:], strict=True)
        return to_weights, *(gradient * factor if asked else None for factor, asked in factors)

    @staticmethod
    def backward(ctx: Any, u: Weights | None, *v: Maps | None) -> tuple[Tensor | None, ...]:
        gradient, weights, *terms = ctx.saved_tensors
        with torch.no_grad():
            parts = [None if part is None else innermost(part) for part in v]
            found = _derivatives(gradient, weights, terms, u, parts)
        return None, *last_derivatives(found, (u, *v, *ctx.saved_tensors))


def _derivatives(
    gradient: Maps, weights: Weights, terms: Sequence[Maps], u: Weights | None, v: Sequence[Maps | None]
) -> tuple[Tensor | None, ...]:
    """Return what gradient, weights and terms get from the derivatives u, v of the outputs of the first derivative."""
    to_weights = _dots([None if part is None else (part, gradient) for part in v], gradient, len(weights))
    pairs = [(w, part) for w, part in zip(_columns(weights, gradient), v, strict=True) if part is not None]
    to_terms: list[Maps | None] = [None] * len(terms)
    if u is not None:
        factors = _columns(u, gradient)
        pairs += zip(factors, terms, strict=True)
        to_terms = [gradient * factor for factor in factors]
    to_gradient = _sum(*zip(*pairs, strict=True)) if pairs else None
    return to_gradient, to_weights, *to_terms


def _columns(weights: Weights, like: Maps) -> Sequence[Factors]:
    """Return every option's factors of the channels."""
    replicas, options = weights.shape
    wide = weights.mT[:, :, None].expand(-1, -1, like.shape[1] // replicas)
    return wide.reshape(options, -1, 1, 1).unbind(0)


def _dots(pairs: Sequence[tuple[Maps, Maps] | None], like: Maps, replicas: int) -> Weights:
    """Return the products of maps, summed over each replica, one pair an option; zero where there is none."""
    nothing = like.new_zeros(like.shape[1])
    sums = [nothing if pair is None else (pair[0] * pair[1]).sum((0, 2, 3)) for pair in pairs]
    return torch.stack(sums).unflatten(1, (replicas, -1)).sum(2).mT


def _sum(factors: Sequence[Factors], terms: Sequence[Maps]) -> Maps:
    total = terms[0] * factors[0]
    for factor, term in zip(factors[1:], terms[1:], strict=True):
        total.addcmul_(term, factor)
    return total
