"""Curvature of the loss that a method itself samples, beside λ, which is that of its deterministic relaxation.

The loss is the mean over fixed draws of the sample's mean cross-entropy (nats) on the probe of λ, batch statistics; the
draws are the same at every epoch and are those of no step. Its Hessian is that of what the method differentiates: of a
straight-through sample, the surrogate of its gradient, not the sampled loss, which is piecewise constant. Of small
samples the mean of eigenvalues is above the eigenvalue of the mean (a convex function), so both are recorded.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bench.metrics.curvature import Loss, choices_loss, largest
from searchers import _curvature
from searchers._part import Part, parts
from searchers.base import Batch, Logits, Native, Sampling, Searcher


@dataclass(frozen=True)
class NativeSettings:
    """How much is drawn.

    Attributes:
        draws: samples that the loss is the mean of.
    """

    draws: int = 16


def loss_of(searcher: Searcher) -> Native | None:
    """Return the loss that a searcher samples; None where it samples nothing."""
    return searcher.native if isinstance(searcher, Sampling) and searcher.no_curvature is None else None


def measure(
    searcher: Searcher, probe: Batch, settings: NativeSettings, together: int | None = None
) -> list[dict[str, Any]]:
    """Return the fields of every replica, none where the method samples nothing; nothing of the searcher changes.

    Args:
        searcher: one whose λ is defined, or not: then there are no fields.
        probe: that of λ.
        settings: see there.
        together: most replicas that are measured at once, None: all.
    """
    native = loss_of(searcher)
    if native is None:
        return [{} for _ in probe.labels]
    measured = (_of_part(part, native, probe, settings) for part in parts(searcher, len(probe.labels), together))
    return [row for rows in measured for row in rows]


def _of_part(part: Part, native: Native, probe: Batch, settings: NativeSettings) -> list[dict[str, Any]]:
    logits = part.logits()
    frame = _curvature.complement(_curvature.null_basis(logits, part.shift_invariant))
    with _curvature.exact_arithmetic():
        losses = (_sampled(part, native, part.of(probe), draw) for draw in range(settings.draws))
        found = [_of_draw(loss, logits, frame) for loss in losses]
    hessians, values = (torch.stack(each) for each in zip(*found, strict=True))
    single = torch.stack([largest(_curvature.spectrum(one)) for one in hessians])
    columns = {
        "lambda_native": largest(_curvature.spectrum(hessians.mean(0))),
        "lambda_native_mean": single.mean(0),
        "lambda_native_std": single.std(0, correction=0),
        "native_loss": values.mean(0),
    }
    rows = {name: column.tolist() for name, column in columns.items()}
    return [{name: column[i] for name, column in rows.items()} for i in range(values.shape[1])]


def _sampled(part: Part, native: Native, probe: Batch, number: int) -> Loss:
    """Return the loss of one draw as a function of the logits."""

    def loss(logits: Logits) -> Float[Tensor, " replicas"]:
        choices, inputs = part.sampled(native, logits, number)
        return choices_loss(part, probe, inputs)(choices)

    return loss


def _of_draw(
    loss: Loss, logits: Logits, frame: Float[Tensor, "kept size"]
) -> tuple[Float[Tensor, "replicas kept kept"], Float[Tensor, " replicas"]]:
    """Return Hessian and loss of one draw; its graph is freed before the next."""
    point = _curvature.hessian_operator(loss, logits)
    return _curvature.dense(point.product, len(point.loss), frame).matrix, point.loss
