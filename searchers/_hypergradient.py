"""Derivatives through the training of the weights: mixed second derivatives and Neumann series."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from searchers import _relax
from searchers._bilevel import Bilevel
from searchers.base import Batch

Flat = Float[Tensor, "replicas size"]


def mixed_derivative(
    searcher: Bilevel, train: Batch, toward: Float[Tensor, "replicas size"], radius: float
) -> dict[str, Tensor]:
    """Return (∂L_train(w + R·v)/∂α − ∂L_train(w − R·v)/∂α) / (2R) with R = radius/‖v‖ of each replica."""
    layout = searcher.weights.layout
    flat = layout.flatten(searcher.frozen())
    # A replica whose v is zero moves nowhere and has no second-order term; its length only has to be finite.
    length = radius / toward.norm(dim=1, keepdim=True).clamp_min(torch.finfo(toward.dtype).tiny)
    sides = []
    for sign in (1.0, -1.0):
        leaves = searcher.leaves()
        moved = layout.split(flat + sign * length * toward)
        losses = _relax.loss(searcher.supernet, train, searcher.relax(leaves), moved)
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
    weights = {name: value.requires_grad_() for name, value in searcher.frozen().items()}
    losses = _relax.loss(searcher.supernet, train, searcher.relax(searcher.logits()), weights)
    leaves, layout = list(weights.values()), searcher.weights.layout
    gradient = torch.autograd.grad(losses.sum(), leaves, create_graph=True, materialize_grads=True)
    flat = layout.flatten(dict(zip(weights, gradient, strict=True)))

    def product(vector: Flat) -> Flat:
        found = torch.autograd.grad(flat, leaves, vector, retain_graph=True, materialize_grads=True)
        return layout.flatten(dict(zip(weights, found, strict=True)))

    return product
