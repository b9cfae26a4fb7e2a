"""Slices of the validation loss through the logits: is the minimum as sharp as λ says, and only along one direction?

At fixed weights, on the probe and through the relaxation that λ is defined on: f(t) = L(α + t·v) for the dominant
eigenvector v and for random unit directions, all orthogonal to the null space of softmax rows. f″(0) along the
eigenvector is λ. The distance-against-training-loss curves of earlier work mix the path of α with the progress of the
weights; these slices do not.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bench.metrics.curvature import probe_loss
from searchers import _curvature
from searchers.base import Batch, Searcher

Directions = Float[Tensor, "replicas directions size"]


@dataclass(frozen=True)
class LandscapeSettings:
    """Where the loss is taken.

    Attributes:
        radius: largest |t|, in units of the logits.
        points: values of t, evenly from -radius to radius; odd, so that t = 0 is one of them.
        random: random directions beside the eigenvector.
    """

    radius: float = 2.0
    points: int = 21
    random: int = 3


def measure(
    searcher: Searcher,
    probe: Batch,
    eigenvector: Float[Tensor, "replicas size"],
    noise: tuple[torch.Generator, ...],
    settings: LandscapeSettings,
) -> list[dict[str, Any]]:
    """Return the slices of every replica; nothing of the searcher changes.

    A record has `t` and, one row a direction, the eigenvector first, `loss` (nats; null where it is not finite).
    """
    logits = searcher.logits()
    directions = _directions(eigenvector, _curvature.null_basis(logits, searcher.shift_invariant), noise, settings)
    steps = torch.linspace(-settings.radius, settings.radius, settings.points, dtype=torch.float64)
    centre, loss = _curvature.pack(logits), probe_loss(searcher, probe)
    with torch.no_grad(), _curvature.exact_arithmetic():
        rows = []
        for index in range(directions.shape[1]):
            direction = directions[:, index].to(centre)
            moved = [loss(_curvature.unpack(centre + float(t) * direction, logits)) for t in steps]
            rows.append(torch.stack(moved, 1).double().cpu())
    return [{"t": steps.tolist(), "loss": [_finite(row[replica]) for row in rows]} for replica in range(len(centre))]


def _directions(
    eigenvector: Float[Tensor, "replicas size"],
    basis: Float[Tensor, "null size"],
    noise: tuple[torch.Generator, ...],
    settings: LandscapeSettings,
) -> Directions:
    """Return unit vectors orthogonal to the null space, the eigenvector first."""
    size = eigenvector.shape[1]
    drawn = torch.stack([torch.randn(settings.random, size, generator=each, dtype=torch.float64) for each in noise])
    rows = _curvature.project(torch.cat([eigenvector[:, None].double(), drawn], 1), basis)
    return rows / rows.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)


def _finite(values: Float[Tensor, " points"]) -> list[float | None]:
    return [
        value if finite else None for value, finite in zip(values.tolist(), values.isfinite().tolist(), strict=True)
    ]
