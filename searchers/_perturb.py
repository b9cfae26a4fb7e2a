"""Perturbed mixing weights for the weight step: noise, projection, mean shift.

Shared by SmoothDARTS (`sdarts_rs`, `sdarts_adv`), MS-DARTS (`ms_darts`) and their control arms. All of it works on the
mixing weights A = softmax(α), not on the logits, and leaves α alone. Probes measure losses without gradients, with
batch statistics as everywhere in this package (the published code probes in eval mode; no running statistics exist
here).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from searchers import _relax
from searchers._bilevel import Bilevel
from searchers._hosted import Streams, hosted
from searchers.base import Batch, Choices, ForwardInputs, Logits, StepBatches

Mixture = Mapping[str, Float[Tensor, "cells replicas decisions options"]]
Generators = Sequence[torch.Generator]
Perturbation = Callable[[Bilevel, Mixture, StepBatches], Mixture]

STREAM = "perturbation"


@dataclass(frozen=True)
class Ramp:
    """Radius ε of the noise: ε(e) = start + (end − start)·e/E, which stays below `end`."""

    start: float = 0.03
    end: float = 0.3

    def __post_init__(self) -> None:
        require(min(self.start, self.end) >= 0, "a radius of at least 0", f"{self.start} to {self.end}")

    def at(self, progress: float) -> float:
        return self.start + (self.end - self.start) * progress


def require(holds: bool, expected: str, got: object) -> None:
    """Raise ValueError unless a setting is as expected."""
    if not holds:
        raise ValueError(f"expected {expected}, got {got!r}")


def weight_choices(change: Perturbation) -> Callable[[Bilevel, Logits, StepBatches], Choices]:
    """Return the recipe's hook: the weight step sees the relaxation, changed."""

    def choose(searcher: Bilevel, logits: Logits, batches: StepBatches) -> Choices:
        clean = searcher.relax(logits)
        return Choices(change(searcher, clean.weights, batches), clean.active)

    return choose


def probe(searcher: Bilevel, mixture: Mixture, batch: Batch) -> Float[Tensor, " replicas"]:
    """Return the loss under these mixing weights, without gradients; samples are told apart by small differences."""
    with torch.no_grad():
        return _relax.loss(searcher.supernet, batch, Choices(mixture), inputs=ForwardInputs(exact=True))


def add(mixture: Mixture, noise: Mixture) -> Mixture:
    return {name: value + noise[name] for name, value in mixture.items()}


def project(mixture: Mixture) -> Mixture:
    """Clamp every row to [0, 1] and divide it by its sum; a row without positive entries is one-hot at its maximum.

    Not the Euclidean projection. A row already on the simplex, its sum 1 up to rounding, keeps its bits.
    """
    return {name: _project(value) for name, value in mixture.items()}


def _project(rows: Float[Tensor, "*rest options"]) -> Float[Tensor, "*rest options"]:
    kept = rows.clamp(0, 1)
    total = kept.sum(-1, keepdim=True)
    largest = torch.zeros_like(rows).scatter(-1, rows.argmax(-1, keepdim=True), 1.0)
    mended = torch.where(total > 0, kept / torch.where(total > 0, total, 1.0), largest)
    rounding = rows.shape[-1] * torch.finfo(rows.dtype).eps
    feasible = (kept == rows).all(-1, keepdim=True) & ((total - 1).abs() <= rounding)
    return torch.where(feasible, rows, mended)


class Shape(NamedTuple):
    """A region that noise is uniform in: what is drawn for every entry, and the noise that is made of it."""

    draws: tuple[Callable[..., Tensor], ...]
    noise: Callable[[Sequence[Mixture], float], Mixture]


def _box(drawn: Sequence[Mixture], radius: float) -> Mixture:
    return {name: radius * (2 * value - 1) for name, value in drawn[0].items()}


Region = Literal["box", "ball", "joint_ball"]
REGIONS: Mapping[str, Shape] = {
    "box": Shape((torch.rand,), _box),
    "ball": Shape((torch.randn, torch.rand), lambda drawn, radius: _ball(drawn, radius, joint=False)),
    "joint_ball": Shape((torch.randn, torch.rand), lambda drawn, radius: _ball(drawn, radius, joint=True)),
}
"""Every entry in [−radius, radius]; an l2 ball of this radius a group; one, all groups being one vector."""


def noise(searcher: Bilevel, like: Mixture, radius: float, region: Region = "box", count: int = 1) -> list[Mixture]:
    """Return so much noise of this step's streams, one after the other, in the shapes of `like`."""
    return drawn_noise(like, searcher.streams(STREAM), radius, region, count)


def drawn_noise(
    like: Mixture, streams: Streams, radius: float, region: Region = "box", count: int = 1
) -> list[Mixture]:
    """Return so much noise of these streams, one after the other, in the shapes of `like`."""
    kinds, make = REGIONS[region]
    first, shapes = next(iter(like.values())), [(len(value), *value.shape[2:]) for value in like.values()]
    device, dtype = first.device, first.dtype

    def draw() -> list[Tensor]:
        generators = streams()
        return [part.to(dtype) for _ in range(count) for kind in kinds for part in _draw(shapes, generators, kind)]

    drawn = iter(hosted(draw, device))
    return [make([{name: next(drawn) for name in like} for _ in kinds], radius) for _ in range(count)]


def _ball(drawn: Sequence[Mixture], radius: float, joint: bool) -> Mixture:
    normal, uniform = drawn
    first = next(iter(normal))
    lengths, sizes = squared_norms(normal, joint), {name: value[:, 0].numel() for name, value in normal.items()}
    found = {}
    for name, value in normal.items():
        size = sum(sizes.values()) if joint else sizes[name]
        share = uniform[first if joint else name][0, :, 0, 0] ** (1 / size)
        found[name] = radius * value * (share / lengths[name].sqrt())[:, None, None]
    return found


def _draw(shapes: Sequence[tuple[int, ...]], generators: Generators, draw: Callable[..., Tensor]) -> list[Tensor]:
    """Return draws of these shapes: one after the other from each replica's own stream, in double precision."""
    drawn = [[draw(shape, generator=stream, dtype=torch.float64) for shape in shapes] for stream in generators]
    return [torch.stack(parts, 1) for parts in zip(*drawn, strict=True)]


def require_counts(samples: int, rounds: int, region: str) -> None:
    """Raise ValueError unless the settings of a mean shift's samples can be used."""
    require(samples >= 1, "at least 1 sample", samples)
    require(rounds >= 0, "at least 0 rounds", rounds)
    require(region in REGIONS, f"a region out of {sorted(REGIONS)}", region)


@dataclass(frozen=True)
class Sampling:
    """How samples of a mean shift are drawn: so many a round, uniform in a region of a radius."""

    radius: Ramp
    region: Region
    samples: int
    rounds: int


def sampler(searcher: Bilevel, like: Mixture, sampling: Sampling) -> Callable[[Mixture], list[Mixture]]:
    """Return what draws the samples of a round around a centre; its calls go on with the noise of this step."""
    width, count = sampling.radius.at(searcher.moment().progress), sampling.samples
    left = iter(noise(searcher, like, width, sampling.region, count * sampling.rounds))
    return lambda centre: [add(centre, next(left)) for _ in range(count)]


def squared_norms(values: Mixture, joint: bool) -> dict[str, Float[Tensor, " replicas"]]:
    """Return the squared l2 norm of each group, or under every name that of all groups as one vector."""
    own = {name: value.square().sum((0, 2, 3)) for name, value in values.items()}
    return dict.fromkeys(own, torch.stack(list(own.values())).sum(0)) if joint else own


def log_kernel(
    centre: Mixture, samples: Sequence[Mixture], bandwidth: float, joint: bool
) -> dict[str, Float[Tensor, "samples replicas"]]:
    """Return ln κ = −½(d/h)² of every group, d the distance to the centre, relative to the nearest sample.

    The nearest sample has exactly 0, so no bandwidth makes all weights underflow.
    """
    gaps = [{name: sample[name] - value for name, value in centre.items()} for sample in samples]
    norms = [squared_norms(gap, joint) for gap in gaps]
    found = {}
    for name in centre:
        squares = torch.stack([norm[name] for norm in norms])
        found[name] = -0.5 * ((squares - squares.amin(0)) / bandwidth) / bandwidth
    return found


def effective_samples(log_weights: Float[Tensor, "samples replicas"]) -> Float[Tensor, " replicas"]:
    """Return the effective number of samples (Σ weights)² / Σ weights², from 1 to their number."""
    return 1 / log_weights.softmax(0).square().sum(0)


class Gauge:
    """The mean effective number of samples of an epoch's kernels: over groups, rounds and steps."""

    def __init__(self) -> None:
        self._sums: Float[Tensor, "2 replicas"] | None = None
        self._mean: Tensor | None = None

    def add(self, kernel: Mapping[str, Float[Tensor, "samples replicas"]]) -> None:
        """Take one kernel in; nothing is read back from the device."""
        found = torch.stack([effective_samples(value) for value in kernel.values()]).mean(0)
        terms = torch.stack([found, torch.ones_like(found)])
        self._sums = terms if self._sums is None else self._sums.add_(terms)

    def end_epoch(self, _searcher: Bilevel, _epoch: int) -> None:
        """Keep the epoch's mean and start anew."""
        self._mean = None if self._sums is None else self._sums[0] / self._sums[1]
        self._sums = None

    def read(self) -> Mapping[str, Float[Tensor, " replicas"]]:
        """Return the last epoch's mean; nothing before the first epoch and where there are no kernels."""
        return {} if self._mean is None else {"effective_samples": self._mean}

    def state_dict(self) -> dict[str, Any]:
        """Return what is left of an epoch that has ended: the final record shows it once more."""
        return {"mean": self._mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._mean, self._sums = state.get("mean"), None


def mean_shift(
    centre: Mixture,
    rounds: int,
    sample: Callable[[Mixture], Sequence[Mixture]],
    log_weights: Callable[[Mixture, Sequence[Mixture]], Mapping[str, Float[Tensor, "samples replicas"]]],
) -> Mixture:
    """Move the centre to the weighted mean of samples around it, `rounds` times.

    The weights of the mean are softmax(log weights) over the samples (log-sum-exp: they cannot all underflow).
    """
    for _ in range(rounds):
        samples = sample(centre)
        logs = log_weights(centre, samples)
        centre = {name: _mean(torch.stack([s[name] for s in samples]), logs[name].softmax(0)) for name in centre}
    return centre


def _mean(
    values: Float[Tensor, "samples cells replicas decisions options"], shares: Float[Tensor, "samples replicas"]
) -> Float[Tensor, "cells replicas decisions options"]:
    return (shares[:, None, :, None, None] * values).sum(0)
