"""Derivatives through the training of the weights: one step unrolled, mixed second derivatives, Neumann series."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from searchers import _relax
from searchers._bilevel import ArchGradient, Bilevel, first_order
from searchers.base import Batch, Flat, ForwardInputs, StepBatches

Order = Literal["first", "second"]
FormGradient = Callable[[Bilevel, StepBatches], ArchGradient]


def of_order(order: Order) -> FormGradient:
    """Return how DARTS of first or second order, at its defaults, forms the architecture's gradient."""
    return first_order if order == "first" else second_order()


def second_order(xi: float | None = None, radius: float = 0.01) -> FormGradient:
    """Return the look-ahead of one weight step (`unrolled`); ξ None is the current learning rate of the weights."""

    def gradient(searcher: Bilevel, batches: StepBatches) -> ArchGradient:
        return unrolled(searcher, batches, searcher.lr if xi is None else xi, radius)

    return gradient


def unrolled(searcher: Bilevel, batches: StepBatches, xi: float, radius: float) -> ArchGradient:
    """Return the gradient of α ↦ L_val(w'(α), α), its second-order term by a central difference for each replica."""
    train, val = batches.train[0], batches.val[0]
    ahead = _lookahead(searcher, train, xi).requires_grad_()
    leaves = searcher.leaves()
    losses = _relax.loss(searcher.supernet, val, searcher.relax(leaves), ahead)
    *gradients, toward = torch.autograd.grad(losses.sum(), [*leaves.values(), ahead])
    direct = dict(zip(leaves, gradients, strict=True))
    implicit = mixed_derivative(searcher, train, toward, radius)
    return ArchGradient({name: direct[name] - xi * implicit[name] for name in leaves}, losses.detach())


def _lookahead(searcher: Bilevel, train: Batch, xi: float) -> Flat:
    choices = searcher.relax(searcher.logits())
    _, gradient = _relax.by_weights(searcher.supernet, train, choices, searcher.weights.leaf())
    return searcher.weights.lookahead(gradient, xi)


def mixed_derivative(
    searcher: Bilevel, train: Batch, toward: Float[Tensor, "replicas size"], radius: float
) -> dict[str, Tensor]:
    """Return (∂L_train(w + R·v)/∂α − ∂L_train(w − R·v)/∂α) / (2R) with R = radius/‖v‖ of each replica."""
    flat = searcher.fixed()
    # A replica whose v is zero moves nowhere and has no second-order term; its length only has to be finite.
    length = radius / toward.norm(dim=1, keepdim=True).clamp_min(torch.finfo(toward.dtype).tiny)
    sides = []
    for sign in (1.0, -1.0):
        leaves = searcher.leaves()
        moved = flat + sign * length * toward
        losses = _relax.loss(searcher.supernet, train, searcher.relax(leaves), moved, ForwardInputs(exact=True))
        sides.append(torch.autograd.grad(losses.sum(), list(leaves.values())))
    width = 2 * length[:, :, None]
    return {name: (plus - minus) / width for name, plus, minus in zip(searcher.logits(), *sides, strict=True)}


def neumann(product: Callable[[Flat], Flat], start: Flat, eta: float, terms: int) -> Flat:
    """Return Σ_{i=0..terms} (I − η·H)^i·start, where `product` is v ↦ H·v; η times it tends to H⁻¹·start."""
    part = total = start
    for _ in range(terms):
        part = part - eta * product(part)
        total = total + part
    return total


def weight_hessian(searcher: Bilevel, train: Batch) -> Callable[[Flat], Flat]:
    """Return v ↦ ∂²L_train/∂w²·v of each replica at the present weights and logits; one backward pass a call."""
    weights = searcher.weights.leaf()
    losses = _relax.loss(
        searcher.supernet, train, searcher.relax(searcher.logits()), weights, ForwardInputs(twice=True)
    )
    (gradient,) = torch.autograd.grad(losses.sum(), [weights], create_graph=True)

    def product(vector: Flat) -> Flat:
        (found,) = torch.autograd.grad(gradient, [weights], vector, retain_graph=True, materialize_grads=True)
        return found

    return product
