"""A weighted sum of maps, each replica with its own weights, whose derivatives are one step of the graph each.

Mixed operations are most of a supernet's graph: torch would record the views, products and sums of every option, and
the derivative of each of them. Written by hand, with g the gradient of the output, vₖ and uₖ those of the derivatives:

    y = Σₖ wₖ·xₖ       ∂L/∂xₖ = wₖ·g       ∂L/∂wₖ = Σ g·xₖ
    F = Σₖ ⟨vₖ, wₖ·g⟩ + uₖ·Σ g·xₖ          ∂F/∂g = Σₖ wₖ·vₖ + uₖ·xₖ      ∂F/∂wₖ = Σ vₖ·g      ∂F/∂xₖ = uₖ·g

Third derivatives raise.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bench.autodiff import last_derivatives

Maps = Float[Tensor, "n _rc _h _w"]
Weights = Float[Tensor, "replicas options"]


def mixture(weights: Weights, terms: Sequence[Maps]) -> Maps:
    """Return Σₖ weights[:, k]·terms[k] for every replica; a replica is a group of channels of the maps."""
    found: Maps = _Mixture.apply(weights, *terms)
    return found


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Weights, *terms: Maps) -> Maps:
        ctx.save_for_backward(weights, *terms)
        return _sum(_columns(weights), terms)

    @staticmethod
    def backward(ctx: Any, gradient: Maps) -> tuple[Tensor | None, ...]:
        found: tuple[Tensor | None, ...] = _Backward.apply(ctx.needs_input_grad, gradient, *ctx.saved_tensors)
        return found


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, wanted: tuple[bool, ...], gradient: Maps, weights: Weights, *terms: Maps
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(gradient, weights, *terms)
        ctx.set_materialize_grads(False)
        to_weights = torch.stack([_dot(gradient, x, len(weights)) for x in terms], 1) if wanted[0] else None
        columns = zip(_columns(weights), wanted[1:], strict=True)
        return to_weights, *(_times(gradient, w) if asked else None for w, asked in columns)

    @staticmethod
    def backward(ctx: Any, u: Weights | None, *v: Maps | None) -> tuple[Tensor | None, ...]:
        gradient, weights, *terms = ctx.saved_tensors
        with torch.no_grad():
            found = _derivatives(gradient, weights, terms, u, v)
        return None, *last_derivatives(found, (u, *v, *ctx.saved_tensors))


def _derivatives(
    gradient: Maps, weights: Weights, terms: Sequence[Maps], u: Weights | None, v: Sequence[Maps | None]
) -> tuple[Tensor | None, ...]:
    """Return what gradient, weights and terms get from the derivatives u, v of the outputs of the first derivative."""
    nothing = gradient.new_zeros(len(weights))
    to_weights = torch.stack([nothing if part is None else _dot(part, gradient, len(weights)) for part in v], 1)
    pairs = [(w, part) for w, part in zip(_columns(weights), v, strict=True) if part is not None]
    to_terms: list[Maps | None] = [None] * len(terms)
    if u is not None:
        pairs += zip(_columns(u), terms, strict=True)
        to_terms = [_times(gradient, column) for column in _columns(u)]
    to_gradient = _sum(*zip(*pairs, strict=True)) if pairs else None
    return to_gradient, to_weights, *to_terms


def _columns(weights: Weights) -> list[Float[Tensor, "replicas 1 1 1"]]:
    return [column[:, None, None, None] for column in weights.unbind(1)]


def _times(x: Maps, weight: Float[Tensor, "replicas 1 1 1"]) -> Maps:
    return (x.unflatten(1, (len(weight), -1)) * weight).flatten(1, 2)


def _dot(a: Maps, b: Maps, replicas: int) -> Float[Tensor, " replicas"]:
    return (a * b).unflatten(1, (replicas, -1)).sum((0, 2, 3, 4))


def _sum(weights: Sequence[Float[Tensor, "replicas 1 1 1"]], terms: Sequence[Maps]) -> Maps:
    parts = [x.unflatten(1, (len(weights[0]), -1)) for x in terms]
    total = parts[0] * weights[0]
    for weight, part in zip(weights[1:], parts[1:], strict=True):
        total.addcmul_(part, weight)
    return total.flatten(1, 2)
