"""Operations over the replicas axis: a replica is a group of channels.

Images fold to "n (replicas c) h w". `rows` selects the replicas an operation is computed for (None: all), so that what
no replica uses costs nothing. This layout is private to `bench`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from bench.kernels import ONCE, TWICE, Kernels
from bench.layout import (
    Folded,
    Rows,
    factored,
    fold,
    per_channel,
    pick,
    place,
    unfold,
)
from bench.mixture import Branch, Factors, columns
from bench.weights import OWN, Weights
from searchers._hosted import constant
from searchers.base import ForwardInputs, Observation

Term = Callable[[Rows], Folded]
"""Computes one option's output for the given replicas."""


@dataclass(frozen=True)
class Flow:
    """One forward pass over some replicas.

    Attributes:
        observe: sees the maps; without one they pass as they are.
        kernels: what it is computed with.
        weights: where it has its operands from.
        sizes_join: whether kernels of several sizes are applied as one.
    """

    replicas: int
    observe: Callable[[Observation], None] | None
    kernels: Kernels
    weights: Weights = OWN
    sizes_join: bool = False

    def show(self, kind: Literal["relu", "convolution"], x: Folded, rows: Rows = None) -> Folded:
        """Return the map; what the observer sees lies on the way from it to the loss."""
        if self.observe is None:
            return x
        maps = unfold(x, self.replicas if rows is None else len(rows)).transpose(0, 1)
        self.observe(Observation(kind, maps, rows))
        return fold(maps)

    def relu(self, x: Folded, rows: Rows = None) -> Folded:
        return F.relu(self.show("relu", x, rows))


def entering(images: Float[Tensor, "replicas n c h w"], inputs: ForwardInputs, weight: Tensor) -> Folded:
    """Return the images as the first map of a pass, whose type is that of all maps."""
    return fold(images.to(weight.dtype) if inputs.twice or inputs.exact else images)


def flow_of(inputs: ForwardInputs, replicas: int, once: Kernels = ONCE) -> Flow:
    """Return the pass that a network's inputs ask for, with its own weights.

    Args:
        inputs: of the pass.
        replicas: of the images.
        once: what is computed with where nothing is differentiated twice, and nobody looks at maps on their way.
    """
    if inputs.twice:
        return Flow(replicas, inputs.observe, TWICE)
    return Flow(replicas, inputs.observe, once if inputs.observe is None else ONCE)


def scale(x: Folded, weight: Float[Tensor, " replicas"]) -> Folded:
    """Multiply each replica by its own weight."""
    return factored(x, per_channel(weight, x.shape[1]))


def mask(x: Folded, keep: Float[Tensor, "replicas n"]) -> Folded:
    """Multiply each image of each replica by its own factor (drop-path)."""
    return factored(x, keep.T[:, :, None].expand(-1, -1, x.shape[1] // len(keep)).flatten(1)[:, :, None, None])


def shifted(x: Folded, by: Float[Tensor, " replicas"]) -> Folded:
    """Add each replica's own number to all of its maps."""
    return (x + per_channel(by, x.shape[1])).to(x.dtype)


def once(term: Term, used: Bool[np.ndarray, " replicas"], device: torch.device) -> Term:
    """Return a term that computes its output a single time, for the replicas in `used`; who asks gets some of them."""
    rows = None if used.all() else constant(np.flatnonzero(used), device)
    positions = constant(used.cumsum() - 1, device)
    found: list[Folded] = []

    def shared(asked: Rows) -> Folded:
        if not found:
            found.append(term(rows))
        return found[0] if asked is None else pick(found[0], int(used.sum()), positions[asked])

    return shared


@dataclass(frozen=True)
class Given:
    """An option whose output is there already, for all replicas."""

    maps: Folded
    replicas: int

    def __call__(self, rows: Rows) -> Folded:
        return pick(self.maps, self.replicas, rows)


@runtime_checkable
class Branching(Protocol):
    """An option that can be asked for what its output is made of."""

    def branch(self) -> Branch:
        """Return its maps before normalisation, of all replicas."""
        ...


@dataclass(frozen=True)
class Row:
    """One decision.

    Attributes:
        active: None where every option of every replica is.
        shared: returns the factors of all options for maps of so many channels, made once for many cells; None: they
            are made of the weights.
    """

    weights: Float[Tensor, "replicas options"]
    active: Bool[np.ndarray, "replicas options"] | None
    shared: Callable[[int], Sequence[Factors]] | None = None

    def factors(self, channels: int) -> Sequence[Factors]:
        return columns(self.weights, channels) if self.shared is None else self.shared(channels)

    def after(self, first: int) -> "Row":
        """Return the decision without its first options."""
        active = None if self.active is None else self.active[:, first:]
        return Row(self.weights[:, first:], active, lambda channels: self.factors(channels)[first:])


def mix(terms: Sequence[Term], row: Row, flow: Flow) -> Folded | None:
    """Return the weighted sum of the options' outputs; None when no replica has an active option.

    An option that no replica uses is not computed; one that some use is computed for those, unless its output is given:
    a factor of zero for the others is cheaper then than taking and placing channels.
    """
    weights, active = row.weights, row.active
    if active is None:
        return _mixed(terms, row.factors, flow)
    used: list[bool] = np.asarray(active.any(0)).tolist()
    whole: list[bool] = np.asarray(active.all(0)).tolist()
    dense = [k for k, term in enumerate(terms) if used[k] and (whole[k] or isinstance(term, Given))]
    sparse = [k for k in range(len(terms)) if used[k] and k not in dense]
    found = []
    if dense:
        every = all(whole[k] for k in dense)
        found.append(
            _mixed([terms[k] for k in dense], lambda channels: _dense_factors(row, dense, every, channels), flow)
        )
    if sparse:
        found.append(_placed(terms, weights, [(k, np.flatnonzero(active[:, k])) for k in sparse]))
    return total(found) if found else None


def _mixed(terms: Sequence[Term], factors: Callable[[int], Sequence[Factors]], flow: Flow) -> Folded:
    """Return the weighted sum of options, computed for all replicas."""
    if flow.kernels.mixed is None:
        maps = [term(None) for term in terms]
        return flow.kernels.mixture(factors(maps[0].shape[1]), maps)
    branches = [term.branch() if isinstance(term, Branching) else Branch(term(None)) for term in terms]
    return flow.kernels.mixed([factors(branches[0].maps.shape[1])], branches, flow.replicas)[0]


def _dense_factors(row: Row, options: list[int], every: bool, channels: int) -> Sequence[Factors]:
    """Return the factors of options whose maps of all replicas are there: zero for those that leave one out, if any."""
    if every:
        factors = row.factors(channels)
        return [factors[option] for option in options]
    assert row.active is not None
    device = row.weights.device
    taken = row.weights.index_select(1, constant(options, device))
    return columns(torch.where(constant(row.active[:, options], device), taken, 0), channels)


def total(maps: Sequence[Folded]) -> Folded:
    """Return the sum of one map or more."""
    return sum(maps[1:], start=maps[0])


def _placed(
    terms: Sequence[Term], weights: Float[Tensor, "replicas options"], used: Sequence[tuple[int, np.ndarray]]
) -> Folded:
    """Return the weighted sum of options that some replicas use, each computed for those."""
    indices = [(option, constant(rows, weights.device)) for option, rows in used]
    parts = torch.cat([terms[option](rows) for option, rows in indices], 1)
    factors = torch.cat([weights[rows, option] for option, rows in indices])
    return place(scale(parts, factors), torch.cat([rows for _, rows in indices]), len(weights))


def computed(term: Term, used: Bool[np.ndarray, " replicas"], device: torch.device) -> Folded | None:
    """Return a term's output for the replicas in `used`, zero for the others; None when no replica is."""
    if used.all() or not used.any():
        return term(None) if used.all() else None
    rows = constant(np.flatnonzero(used), device)
    return place(term(rows), rows, len(used))


def max_pool(x: Folded, side: int = 3, stride: int = 1) -> Folded:
    """Maximum over windows of `side`², padded by 1; ties go to the first pixel."""
    return F.max_pool2d(x, side, stride, padding=1)


def average_pool(x: Folded) -> Folded:
    """3×3 average over the pixels inside the image, stride 1."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def pooled(x: Folded, replicas: int) -> Float[Tensor, "replicas n c"]:
    """Global average pooling, to single precision at least."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return unfold(x, replicas).mean((3, 4), dtype=wide).transpose(0, 1)
