"""Curvature of the validation loss over the choices: what every λ in a record means, and how it is measured.

The loss is the mean cross-entropy (nats) of the searcher's own supernet on a fixed probe, batch statistics, float32
without TF32 or better. H is its Hessian with respect to all logits, through the searcher's relaxation; row-constant
directions of softmax groups are an exact null space and are projected out. Every epoch the eigenvalue of largest
magnitude comes from power iteration or Lanczos; at chosen epochs the exact Hessian gives the whole spectrum and
checks it.

Sources: Zela et al. (2020), Understanding and Robustifying Differentiable Architecture Search, arXiv:1909.09656, §4
(eigenvalue of the validation loss); what their code and its descendants plot is `legacy`.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from searchers import _curvature
from searchers._optim import weights_of
from searchers._part import Part, parts
from searchers.base import Batch, Choices, ForwardInputs, Logits, Searcher

PerReplica = Float[Tensor, " replicas"]
Vectors = Float[Tensor, "replicas size"]
Loss = Callable[[Logits], PerReplica]
Subject = Searcher | Part
"""What is measured: all replicas of a searcher, or some."""


@dataclass(frozen=True)
class CurvatureSettings:
    """How curvature is measured.

    Attributes:
        mode: how λ is found every epoch. "power": power iteration; "lanczos": the same eigenvalue from half as many
            products; "exact": from the whole spectrum.
        spectrum_every: epochs from one whole spectrum to the next.
        tolerance: on ‖Hv−θv‖/|θ|.
        legacy_weight_decay: added to the diagonal by earlier code (Zela et al. 2020).
        random_part: length of the random part of the start vector, relative to the last epoch's vector.
    """

    mode: Literal["power", "lanczos", "exact", "off"] = "power"
    spectrum_every: int = 10
    tolerance: float = 1e-3
    legacy_weight_decay: float = 1e-3
    random_part: float = 0.1


class Probes(NamedTuple):
    """What is measured on.

    Attributes:
        fixed: the class-balanced, un-augmented probe.
        remainder: the augmented 40-image remainder batch of earlier papers.
        together: most replicas that are measured at once, None: all. It decides what memory that takes, and rounding.
    """

    fixed: Batch
    remainder: Batch | None = None
    together: int | None = None


class Measured(NamedTuple):
    """One record a replica (results/README.md, `curvature`), and the vectors the next measurement starts from."""

    records: list[dict[str, Any]]
    vectors: Vectors


def epoch_wants_spectrum(epoch: int, epochs: int, settings: CurvatureSettings) -> bool:
    """Return whether the whole spectrum is due: at epoch 0, every tenth and the last; always in mode "exact"."""
    if settings.mode == "off":
        return False
    return settings.mode == "exact" or epoch % settings.spectrum_every == 0 or epoch == epochs


def measure(
    searcher: Searcher,
    probes: Probes,
    start: Vectors | None,
    noise: tuple[torch.Generator, ...],
    settings: CurvatureSettings,
    whole: bool,
) -> Measured:
    """Measure the curvature of every replica; nothing of the searcher changes.

    Args:
        searcher: one whose λ is defined; its supernet is measured at its present logits and weights.
        probes: without a remainder batch, `lambda_legacy` is null.
        start: the vectors of the last measurement, None at the first.
        noise: one fresh CPU generator a replica.
        settings: see there.
        whole: whether the whole spectrum is due.
    """
    if settings.mode == "off" or searcher.no_curvature is not None:
        raise ValueError(f"expected curvature to be wanted and defined, got: {searcher.no_curvature or 'mode off'}")
    found = []
    for part in parts(searcher, len(noise), probes.together):
        begin = None if start is None else start[part.rows]
        seen = Probes(part.of(probes.fixed), None if probes.remainder is None else part.of(probes.remainder))
        found.append(_measure_part(part, seen, begin, noise[part.rows], settings, whole))
    return Measured([record for one in found for record in one.records], torch.cat([one.vectors for one in found]))


def _measure_part(
    searcher: Part,
    probes: Probes,
    start: Vectors | None,
    noise: tuple[torch.Generator, ...],
    settings: CurvatureSettings,
    whole: bool,
) -> Measured:
    logits = searcher.logits()
    with _curvature.exact_arithmetic():
        basis = _curvature.null_basis(logits, searcher.shift_invariant)
        point = _curvature.hessian_operator(probe_loss(searcher, probes.fixed), logits)
        begin = start_vectors(start, noise, point.gradient.shape[1], settings.random_part)
        solve = _curvature.lanczos if settings.mode == "lanczos" else _curvature.dominant
        found = solve(point.product, begin, basis, settings.tolerance)
        columns = power(point, found)
        if whole:
            columns |= whole_spectrum(point, basis, found)
            columns |= exact_dominant(columns, begin.shape[1]) if settings.mode == "exact" else {}
            columns["lambda_simplex"] = simplex(searcher, probes.fixed, noise, settings.tolerance)
            columns["lambda_legacy"] = legacy(searcher, probes.remainder, settings.legacy_weight_decay)
    columns["hessian_of"] = [searcher.hessian_of] * len(noise)
    return Measured([_record(columns, replica) for replica in range(len(noise))], found.vector)


def probe_loss(searcher: Subject, batch: Batch) -> Loss:
    """Return the loss λ is defined on, as a function of the logits: mean cross-entropy of each replica, nats."""
    loss = choices_loss(searcher, batch)
    return lambda logits: loss(searcher.relax(logits))


def choices_loss(
    searcher: Subject, batch: Batch, inputs: ForwardInputs = ForwardInputs()
) -> Callable[[Choices], PerReplica]:
    """Return the loss as a function of the mixing weights; network weights are detached, so they get no gradients."""
    network = searcher.supernet
    fixed = searcher.weights() if isinstance(searcher, Part) else weights_of(network)
    twice = dataclasses.replace(inputs, twice=True, weights=fixed)

    def loss(choices: Choices) -> PerReplica:
        scores = network(batch.images, choices, twice)
        return functional.cross_entropy(scores.mT, batch.labels, reduction="none").mean(1)

    return loss


def start_vectors(start: Vectors | None, noise: tuple[torch.Generator, ...], size: int, random_part: float) -> Vectors:
    """Return where power iteration starts: the last vectors plus a random part, or random directions alone."""
    drawn = torch.stack([torch.randn(size, generator=stream, dtype=torch.float64) for stream in noise])
    drawn = drawn / drawn.norm(dim=1, keepdim=True)
    return drawn if start is None else start + random_part * drawn


def power(point: _curvature.Curvature, found: _curvature.Dominant) -> dict[str, list[Any]]:
    """Return the fields of every epoch, one value a replica."""
    return {
        "lambda_dominant": found.value.tolist(),
        "residual": found.residual.tolist(),
        "products": found.products.tolist(),
        "solver": list(found.solver),
        "loss": point.loss.tolist(),
        "gradient_norm": point.gradient.norm(dim=1).tolist(),
        "degenerate": _curvature.degenerate(point, found.value).tolist(),
    }


def whole_spectrum(
    point: _curvature.Curvature, basis: Float[Tensor, "directions size"], found: _curvature.Dominant
) -> dict[str, list[Any]]:
    """Return the fields from the exact Hessian, with the relative error of what power iteration found."""
    hessian = _curvature.dense(point.product, len(point.loss), _curvature.complement(basis))
    values = _curvature.spectrum(hessian.matrix)
    low, high, dominant = values[:, 0], values[:, -1], largest(values)
    error = (found.value - dominant).abs()
    return {
        "lambda_max": high.tolist(),
        "lambda_min": low.tolist(),
        "trace": values.sum(1).tolist(),
        "spectrum": values.tolist(),
        "asymmetry": hessian.asymmetry.tolist(),
        "disagreement": torch.where(error == 0, 0.0, error / dominant.abs()).tolist(),
    }


def largest(spectrum: Float[Tensor, "replicas size"]) -> PerReplica:
    """Return the eigenvalue of largest magnitude, signed, of ascending ones."""
    low, high = spectrum[:, 0], spectrum[:, -1]
    return torch.where(low.abs() > high.abs(), low, high)


def exact_dominant(columns: dict[str, list[Any]], size: int) -> dict[str, list[Any]]:
    """Return the fields of λ from the whole spectrum, which takes as many products as there are logits."""
    ends = zip(columns["lambda_max"], columns["lambda_min"], strict=True)
    found = [max(pair, key=abs) for pair in ends]
    constant = {"residual": 0.0, "products": size, "solver": "exact"}
    return {"lambda_dominant": found} | {name: [value] * len(found) for name, value in constant.items()}


def simplex(searcher: Subject, batch: Batch, noise: tuple[torch.Generator, ...], tolerance: float) -> list[float]:
    """Return the eigenvalue of largest magnitude with respect to the mixing weights, signed; nats per squared weight.

    On the tangent space of the simplex of every row of the shift-invariant groups (Lanczos). λ in logits shrinks merely
    because rows saturate, this one does not.
    """
    logits = searcher.logits()
    with torch.no_grad():
        choices = searcher.relax(logits)
    rows = {name: choices.weights[name].transpose(0, 1).flatten(1, 2) for name in logits}
    loss = choices_loss(searcher, batch)

    def of_rows(moved: Logits) -> PerReplica:
        folded = {
            name: table.unflatten(1, (len(choices.weights[name]), -1)).transpose(0, 1) for name, table in moved.items()
        }
        return loss(Choices({**choices.weights, **folded}, choices.active))

    point = _curvature.hessian_operator(of_rows, rows)
    begin = start_vectors(None, noise, point.gradient.shape[1], 0.0)
    basis = _curvature.null_basis(rows, searcher.shift_invariant)
    return _curvature.lanczos(point.product, begin, basis, tolerance).value.tolist()


def legacy(searcher: Subject, batch: Batch | None, weight_decay: float) -> list[float | None]:
    """Return |algebraic maximum of the eigenvalues of H + weight_decay·I| with nothing projected out; null if no batch.

    Null directions need no products: their eigenvalues are 0.

    Source: automl/RobustDARTS and its descendants: on the 40 augmented validation images left over from the epoch.
    """
    logits = searcher.logits()
    if batch is None:
        return [None] * len(next(iter(logits.values())))
    point = _curvature.hessian_operator(probe_loss(searcher, batch), logits)
    basis = _curvature.null_basis(logits, searcher.shift_invariant)
    values = _curvature.spectrum(_curvature.dense(point.product, len(point.loss), _curvature.complement(basis)).matrix)
    top = values[:, -1].clamp(min=0) if len(basis) else values[:, -1]
    return (top + weight_decay).abs().tolist()


def _record(columns: dict[str, list[Any]], replica: int) -> dict[str, Any]:
    """Return one replica's fields; a number that is not finite becomes null and raises the flag `not_finite`."""
    record = {name: column[replica] for name, column in columns.items()}
    cleaned = {name: _finite(value) for name, value in record.items()}
    return cleaned | {"not_finite": cleaned != record}


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return None if any(_finite(part) is None for part in value) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
