"""Curvature of a loss with respect to logits: Hessian-vector products and eigenvalues, for all replicas at once.

Vectors are "replicas size", where `size` counts the logits of all groups in dict order. Losses are summed over
replicas, so one double-backward pass gives the product of every replica, and no replica touches another. Networks
compute in their own precision and on their own device; the small algebra here is float64 on the CPU.

The dominant eigenvalue is the one of largest magnitude, with its sign (nats per squared logit). `dominant` is power
iteration, stopped by its residual, and where that does not converge (ends of nearly equal magnitude) Lanczos with full
re-orthogonalisation. `lanczos` alone takes the best combination of the iterates instead of the last one: over 60 epochs
of DARTS on s1 it took 7.5 products an epoch, power iteration 13.1, and both agreed with the exact Hessian. A small
residual proves an eigenvalue, not that it dominates: callers give a start with a random part, and compare with the
whole spectrum now and then.

Source: Golub, Van Loan (2013), Matrix Computations, 4th edition, §8.2.1 (power iteration), §10.1 to §10.3 (Lanczos).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from searchers._flags import EXACT, switched
from searchers.base import Logits

Vectors = Float[Tensor, "replicas size"]
Basis = Float[Tensor, "directions size"]
Hessians = Float[Tensor, "replicas size size"]
Frame = Float[Tensor, "replicas steps size"]
PerReplica = Float[Tensor, " replicas"]
DOUBT = 0.02
"""Residual of the smaller end, relative to the larger, up to which Lanczos does not trust it to stay the smaller."""
Product = Callable[[Vectors], Vectors]
"""Vector to Hessian times vector, float64 on the CPU."""


def pack(logits: Logits) -> Vectors:
    """Return the logits of all groups side by side, a copy."""
    return torch.cat([group.flatten(1) for group in logits.values()], dim=1)


def unpack(vector: Vectors, like: Logits) -> Logits:
    """Return the groups of a packed vector, views of it; inverse of `pack`."""
    parts = vector.split([group[0].numel() for group in like.values()], dim=1)
    return {name: part.reshape(group.shape) for (name, group), part in zip(like.items(), parts, strict=True)}


def null_basis(logits: Logits, groups: tuple[str, ...]) -> Basis:
    """Return orthonormal row-constant directions of the named groups, one a row; possibly none."""
    blocks = []
    for name, group in logits.items():
        _, decisions, options = group.shape
        rows = torch.eye(decisions, dtype=torch.float64).repeat_interleave(options, dim=1) / options**0.5
        blocks.append(rows if name in groups else rows[:0])
    return torch.block_diag(*blocks)


def project(vector: Float[Tensor, "... size"], basis: Basis) -> Float[Tensor, "... size"]:
    """Return the part of a vector that is orthogonal to the basis."""
    return vector - (vector @ basis.T) @ basis


@dataclass(frozen=True)
class Curvature:
    """First and second derivatives of a loss at one point; holds the graph while it lives.

    Attributes:
        loss: of each replica, nats.
        gradient: nats per logit.
        product: Hessian times vector, one backward pass a call.
        rounding: machine epsilon of the precision it was computed in.
    """

    loss: PerReplica
    gradient: Vectors
    product: Product
    rounding: float


def _derivative(output: Float[Tensor, "..."], leaf: Vectors, seed: Float[Tensor, "..."], *, create: bool) -> Vectors:
    """Return the vector-Jacobian product, zeros where the output does not depend on the leaf."""
    if not output.requires_grad:
        return torch.zeros_like(leaf)
    (found,) = torch.autograd.grad(output, leaf, seed, retain_graph=True, create_graph=create, allow_unused=True)
    return torch.zeros_like(leaf) if found is None else found


def hessian_operator(loss: Callable[[Logits], PerReplica], logits: Logits) -> Curvature:
    """Return loss, gradient and Hessian-vector products at the logits; one forward pass, nothing accumulates."""
    with torch.enable_grad():
        leaf = pack(logits).detach().clone().requires_grad_(True)
        values = loss(unpack(leaf, logits))
        gradient = _derivative(values, leaf, torch.ones_like(values), create=True)

    def product(vector: Vectors) -> Vectors:
        return _host(_derivative(gradient, leaf, vector.to(leaf), create=False))

    return Curvature(_host(values), _host(gradient), product, torch.finfo(leaf.dtype).eps)


def exact_arithmetic() -> AbstractContextManager[None]:
    """Switch TF32 and non-deterministic cuDNN kernels off, and restore them."""
    return switched(EXACT)


def _host(tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    return tensor.detach().to("cpu", torch.float64)


def degenerate(curvature: Curvature, value: PerReplica) -> Bool[Tensor, " replicas"]:
    """Return whether gradient and dominant eigenvalue vanish to rounding: the loss does not depend on the logits."""
    floor = curvature.rounding * curvature.loss.abs()
    return (curvature.gradient.norm(dim=1) <= floor) & (value.abs() <= floor)


@dataclass(frozen=True)
class Dominant:
    """The eigenpair of largest magnitude of every replica.

    Attributes:
        value: signed, nats per squared logit; NaN where a product was not finite.
        vector: of unit length, in the complement of the null directions.
        residual: ‖Hv−θv‖/|θ|.
        products: Hessian-vector products until this replica had converged.
        lanczos: whether power iteration did not converge.
    """

    value: PerReplica
    vector: Vectors
    residual: PerReplica
    products: Int[Tensor, " replicas"]
    lanczos: Bool[Tensor, " replicas"]

    @property
    def solver(self) -> tuple[str, ...]:
        return tuple("lanczos" if flag else "power" for flag in self.lanczos.tolist())


def dominant(product: Product, start: Vectors, basis: Basis, tolerance: float = 1e-3) -> Dominant:
    """Return the eigenvalue of largest magnitude in the complement of the basis, signed.

    Power iteration until ‖Hv−θv‖ ≤ tolerance·|θ|. It may take as many products as there are logits; where it has not
    got there, Lanczos takes over from its vector. A replica that is done is frozen, so that its value does not depend
    on what it is stacked with.
    """
    found = power_iteration(product, start, basis, tolerance)
    stuck = found.residual > tolerance
    if not stuck.any():
        return found
    finished = lanczos(product, found.vector, basis, tolerance, stuck)
    return _merge(stuck, replace(finished, products=finished.products + found.products), found)


def power_iteration(product: Product, start: Vectors, basis: Basis, tolerance: float = 1e-3) -> Dominant:
    """Iterate v ← Hv/‖Hv‖ until the residual is small, for at most `size` products."""
    vector, running = _first(start, basis), torch.ones(len(start), dtype=torch.bool)
    found = _estimate(vector, torch.zeros_like(vector), 0)
    for count in range(1, start.shape[1] + 1):
        image = project(product(vector), basis)
        found = _merge(running, _estimate(vector, image, count), found)
        running = running & (found.residual > tolerance)
        if not running.any():
            break
        vector = torch.where(running[:, None], _unit(image), vector)
    return found


def lanczos(
    product: Product,
    start: Vectors,
    basis: Basis,
    tolerance: float = 1e-3,
    wanted: Bool[Tensor, " replicas"] | None = None,
) -> Dominant:
    """Return the dominant eigenpair by Rayleigh-Ritz in the Krylov space, fully re-orthogonalised.

    Stops when the residual of the larger end is below the tolerance, and the other end, which may only look smaller, is
    so as well, or roughly known and smaller by more than its residual. After as many steps as the complement has
    dimensions the space is complete and the result exact. Replicas that are not `wanted` (None: all are) are not waited
    for.
    """
    vector, running = _first(start, basis), torch.ones(len(start), dtype=torch.bool)
    running = running if wanted is None else wanted
    found = _estimate(vector, torch.zeros_like(vector), 0)
    frame = images = vector[:, None][:, :0]
    for _ in range(start.shape[1] - len(basis)):
        image = project(product(vector), basis)
        frame, images = (torch.cat([old, new[:, None]], 1) for old, new in ((frame, vector), (images, image)))
        estimate, settled = _ritz(frame, images, tolerance)
        found = _merge(running, estimate, found)
        running = running & ~settled
        if not running.any():
            break
        vector = _next(image, frame, basis)
    return replace(found, lanczos=torch.ones_like(found.lanczos))


def _ritz(frame: Frame, images: Frame, tolerance: float) -> tuple[Dominant, Bool[Tensor, " replicas"]]:
    """Return the Ritz pair of largest magnitude, and whether it is settled that it is the dominant one."""
    count, rows = frame.shape[1], torch.arange(len(frame))
    values, vectors = _eigh(images @ frame.mT)
    ends, weights = values[:, [-1, 0]], vectors[:, :, [-1, 0]].mT
    lifted, mapped = weights @ frame, weights @ images
    errors = (mapped - ends[:, :, None] * lifted).norm(dim=2)
    pick = ends.abs().argmax(1)
    size, small = ends[rows, pick].abs(), tolerance * ends[rows, pick].abs()
    rival, doubt = ends[rows, 1 - pick].abs(), errors[rows, 1 - pick]
    beaten = (doubt <= DOUBT * size) & (rival + doubt <= size)
    settled = (errors[rows, pick] <= small) & ((doubt <= small) | beaten)
    seen = count > 1  # one step sees one end only
    return _estimate(lifted[rows, pick], mapped[rows, pick], count), settled & seen


def _next(image: Vectors, frame: Frame, basis: Basis) -> Vectors:
    """Return the unit vector along the image, orthogonal to frame and basis; several passes beat cancellation."""
    for _ in range(3):
        image = _unit(project(image - ((frame @ image[:, :, None]).mT @ frame)[:, 0], basis))
    return image


def _estimate(vector: Vectors, image: Vectors, count: int) -> Dominant:
    """Return the Rayleigh quotient of a unit vector whose product is known, with its residual."""
    value = (vector * image).sum(1)
    error = (image - value[:, None] * vector).norm(dim=1)
    residual = torch.where(error == 0, 0.0, error / value.abs())
    return Dominant(value, vector, residual, torch.full_like(value, count).long(), torch.zeros_like(value).bool())


def _merge(mask: Bool[Tensor, " replicas"], new: Dominant, old: Dominant) -> Dominant:
    """Return `new` in the replicas of the mask, `old` elsewhere."""
    pairs = ((field.name, getattr(new, field.name), getattr(old, field.name)) for field in fields(Dominant))
    return Dominant(**{name: torch.where(mask[:, None] if a.ndim == 2 else mask, a, b) for name, a, b in pairs})


def _first(start: Vectors, basis: Basis) -> Vectors:
    """Return the unit start vector in the complement; the second pass removes what rounding left of the basis."""
    vector = project(_unit(project(start, basis)), basis)
    if start.shape[1] > len(basis) and not (vector.norm(dim=1) > 0).all():
        raise ValueError("expected a finite start vector with a part outside the null directions in every replica")
    return _unit(vector)


def _unit(vector: Vectors) -> Vectors:
    length = vector.norm(dim=1, keepdim=True)
    return torch.where(length > 0, vector / length, 0.0)


def complement(basis: Basis) -> Float[Tensor, "kept size"]:
    """Return an orthonormal basis of all directions orthogonal to the given ones, one a row."""
    return torch.linalg.qr(basis.T, mode="complete").Q[:, len(basis) :].T


class Dense(NamedTuple):
    """Exact Hessians restricted to some directions, symmetrised; what that removed: ‖H−Hᵀ‖/‖H‖ (Frobenius)."""

    matrix: Hessians
    asymmetry: PerReplica


def dense(product: Product, replicas: int, frame: Float[Tensor, "kept size"]) -> Dense:
    """Return the exact Hessians in orthonormal directions, row by row: as many products as directions."""
    rows = [product(row.expand(replicas, -1)) @ frame.T for row in frame]
    matrix = torch.stack(rows, dim=1)
    skew, length = (part.flatten(1).norm(dim=1) for part in (matrix - matrix.mT, matrix))
    return Dense((matrix + matrix.mT) / 2, torch.where(skew == 0, 0.0, skew / length))


def spectrum(matrix: Hessians) -> Float[Tensor, "replicas size"]:
    """Return the eigenvalues, ascending; NaN if the matrix is not finite."""
    return _eigh(matrix)[0]


def _eigh(matrix: Hessians) -> tuple[Vectors, Hessians]:
    """Return eigenvalues, ascending, and eigenvectors; NaN values for a replica whose matrix is not finite."""
    broken = ~matrix.isfinite().all(2).all(1)
    values, vectors = torch.linalg.eigh(torch.where(broken[:, None, None], 0.0, (matrix + matrix.mT) / 2))
    return values.masked_fill(broken[:, None], torch.nan), vectors
