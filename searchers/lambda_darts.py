"""Λ-DARTS: weights are trained so that the cells of the network agree about the architecture.

Source: Movahedi, Adabinejad, Imani, Keshavarz, Dehghani, Shakery, Araabi (2023), Λ-DARTS: Mitigating Performance
Collapse by Harmonizing Operation Selection among Cells, https://arxiv.org/abs/2210.07998, equations 6-11.

One step. Every cell l of L has a copy p_l of the mixing weights p = softmax(α); g_l = ∂L_train/∂p_l, u_l = g_l/‖g_l‖
over all tables, Λ = 2/(L(L−1))·Σ_{l<m} u_l·u_m, which is 1 where all cells agree, and λ rises linearly from 0 in the
first epoch to `weight` in the last:
  1. w: v_l = ∂Λ/∂g_l = 2/(L(L−1))·(I − u_l·u_lᵀ)·Σ_m u_m/‖g_l‖; ε = radius/‖v‖ over all cells;
     ∇_w Λ ≈ (∂L_train(p + ε·v)/∂w − ∂L_train(p − ε·v)/∂w)/(2ε); the step takes ∂L_train/∂w − λ·∇_w Λ; clip; SGD.
  2. α: as DARTS, at the new weights; Adam(1e-4).
Discretise: the highest logits of each row.

Sure: equations, weights first, radius 1e-4, rate of α, weight .125 (the authors' code; its script for NAS-Bench-201
sets .25, and so does `bench/presets.py` there). A difference across a kink of ReLU can be far from the derivative: in
single precision a larger radius may serve. Cells without a gradient are left out of Λ, and L counts the others. Our
reading: tables of a cell are one vector.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from searchers import _relax
from searchers._bilevel import Bilevel, Recipe, weights_first
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import Batch, Choices, Flat, ForwardInputs, Resources, StepBatches
from searchers.entry import Method, Published

PerCell = dict[str, Float[Tensor, "cells replicas decisions options"]]
Joined = Float[Tensor, "replicas cells _size"]


@dataclass(frozen=True)
class Settings:
    """The authors' settings.

    Attributes:
        weight: λ in the last epoch.
        radius: ε·‖v‖, the length of the finite difference.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=lambda: ArchSettings(lr=1e-4))
    weight: float = 0.125
    radius: float = 1e-4


def directions(gradients: Joined) -> tuple[Joined, Float[Tensor, "replicas 1 1"]]:
    """Return the cells' unit gradients, zero where there is none, and 2/(L(L−1)), zero for fewer than two cells."""
    norms = gradients.norm(dim=2, keepdim=True)
    units = torch.where(norms > 0, gradients / norms.clamp_min(torch.finfo(norms.dtype).tiny), 0.0)
    cells = (norms > 0).sum(1, keepdim=True).to(norms.dtype)
    return units, torch.where(cells > 1, 2 / (cells * (cells - 1)).clamp_min(1), 0.0)


def alignment(gradients: Joined) -> Float[Tensor, " replicas"]:
    """Return Λ, the mean cosine between the gradients of two cells."""
    units, pairs = directions(gradients)
    return (pairs[:, 0, 0] / 2) * (units.sum(1).square().sum(1) - units.square().sum((1, 2)))


def alignment_gradient(gradients: Joined) -> Joined:
    """Return ∂Λ/∂g of every cell, zero where a cell has no gradient."""
    units, pairs = directions(gradients)
    total = units.sum(1, keepdim=True)
    across = total - units * (units * total).sum(2, keepdim=True)
    norms = gradients.norm(dim=2, keepdim=True)
    return torch.where(norms > 0, pairs * across / norms.clamp_min(torch.finfo(norms.dtype).tiny), 0.0)


def joined(tables: PerCell) -> Joined:
    """Return the tables of every cell side by side."""
    return torch.cat([table.flatten(2) for table in tables.values()], 2).transpose(0, 1)


def separated(vector: Joined, like: PerCell) -> PerCell:
    """Undo `joined`."""
    parts = vector.transpose(0, 1).split([table[0, 0].numel() for table in like.values()], 2)
    return {name: part.reshape(table.shape) for (name, table), part in zip(like.items(), parts, strict=True)}


def alignment_by_weights(searcher: Bilevel, batch: Batch, mixing: PerCell, v: Joined, radius: float) -> Flat:
    """Return ∇_w Λ by a central difference of each replica along v."""
    length = radius / v.flatten(1).norm(dim=1).clamp_min(torch.finfo(v.dtype).tiny)
    moves = separated(length[:, None, None] * v, mixing)
    sides: list[Tensor] = []
    for sign in (1.0, -1.0):
        choices = Choices({name: table.detach() + sign * moves[name] for name, table in mixing.items()})
        inputs, weights = ForwardInputs(exact=True), searcher.weights.leaf()
        sides.append(_relax.by_weights(searcher.supernet, batch, choices, weights, inputs)[1])
    return (sides[0] - sides[1]) / (2 * length)[:, None]


def update(searcher: Bilevel, batch: Batch, weight: float, radius: float) -> Float[Tensor, " replicas"]:
    """Move the weights by ∂L/∂w − weight·∇_w Λ; return the loss before."""
    cells, weights = searcher.supernet.cells, searcher.weights.leaf()
    shared = searcher.relax(searcher.logits()).weights
    mixing = {n: p.expand(cells, *p.shape[1:]).clone().requires_grad_() for n, p in shared.items()}
    losses = _relax.loss(searcher.supernet, batch, Choices(mixing), weights)
    *found, total = torch.autograd.grad(losses.sum(), [*mixing.values(), weights], materialize_grads=True)
    if weight:
        v = alignment_gradient(joined(dict(zip(mixing, found, strict=True))))
        total = total - weight * alignment_by_weights(searcher, batch, mixing, v, radius)
    searcher.weights.step(total, searcher.lr)
    return losses.detach()


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""
    if settings.radius <= 0:
        raise ValueError(f"expected a radius above 0, got {settings.radius}")
    last = max(resources.horizon.epochs - 1, 1)

    def weights(searcher: Bilevel, batches: StepBatches) -> Float[Tensor, " replicas"]:
        return update(searcher, batches.train[0], settings.weight * searcher.epoch / last, settings.radius)

    recipe = Recipe(weight_update=weights, order=weights_first)
    return Bilevel(recipe, settings.weights, settings.arch, resources)


METHOD = Method(
    "lambda_darts",
    Settings,
    build,
    "Movahedi et al. (2023), Λ-DARTS",
    passes_per_step=4.0,
    published=Published(100, "the authors' code on NAS-Bench-201"),
    steady=True,
)
