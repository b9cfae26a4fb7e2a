"""What a stack would cost, from forward and backward passes on batches of two sizes; nothing is trained.

A pass costs what its calls cost, whatever they work on, and something for every image. At the embedded size the former
is two thirds of a step, so that a cost proportional to the images would be three times too much.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench import precision
from bench.metrics.curvature import epoch_wants_spectrum
from bench.rng import torch_stream
from bench.search import Stack
from searchers import _relax
from searchers._optim import weights_of
from searchers._relax import normal_logits, softmax
from searchers.base import Batch, Searcher, Supernet, SupernetOptions
from searchers.entry import Extent, Passes

IMAGES = (8, 32)
"""Of the two batches that are measured."""
ROUNDS = 3
WIDEST = 128
"""Most seeds whose passes are measured; from there on what a pass costs grows with the seeds."""
PRODUCTS = 7
"""Hessian-vector products of a λ: the mean over ten epochs of DARTS and GDAS at the embedded size on s1."""
STEP_KEEPS, PRODUCT_KEEPS = 1.7, 2.7
"""Peak memory of a step and of a product, in what a pass keeps of its images: 1.1 and 2.6 were measured on s1, 1.7 and
2.5 to 2.7 on nb201, at the papers' width on a CPU that gives freed memory back at once."""
CALLS_PER_PRODUCT, WORK_PER_PRODUCT = 1.9, 2.0
"""Of a product, in those of a pass: no gradients of weights are called for, but everything is derived twice, by kernels
with Python in their graph (`bench.kernels`)."""


@dataclass(frozen=True)
class Estimate:
    """Cost of a stack of seeds.

    Attributes:
        weights: of one replica's supernet.
        steps_per_epoch: of the first epoch.
        wall_s: seconds for all epochs: steps, what the method evaluates besides, and curvature.
        peak_bytes: maps, weights and optimiser state at the larger of a step and a product.
    """

    weights: int
    logits: int
    rows: int
    steps_per_epoch: int
    wall_s: float
    peak_bytes: int


@dataclass(frozen=True)
class PassCost:
    """What a forward and backward pass of the mixture costs, all replicas together.

    Attributes:
        fixed_s: of a pass, whatever its batch.
        image_s: besides, for every image of a replica.
        image_bytes: kept for the backward pass.
    """

    fixed_s: float
    image_s: float
    image_bytes: float

    def seconds(self, passes: Passes) -> float:
        return passes.number * (self.fixed_s + passes.work * passes.images * self.image_s)

    def times(self, factor: float) -> "PassCost":
        """Return what a pass of so many times the replicas costs."""
        return PassCost(factor * self.fixed_s, factor * self.image_s, factor * self.image_bytes)


def estimate(stack: Stack, width: int | None = None) -> Estimate:
    """Measure passes of the mixture and scale them to the whole search of `width` seeds, by default the stack's."""
    lab, spec = stack.lab, stack.spec
    width = width or lab.replicas
    network = lab.build(SupernetOptions())
    parameters = sum(parameter[0].numel() for _, parameter in network.named_parameters())
    wide = _cost(stack, network, lab.dtype).times(width / lab.replicas)
    narrow = precision.step_dtype(spec.precision)
    of_steps = wide if narrow is None else _cost(stack, network, narrow).times(width / lab.replicas)
    searcher = stack.method.build(spec.settings, lab)
    steps = _steps(stack)
    others = [*_curvature(stack, searcher), *stack.method.evaluated(spec.settings, _extent(stack))]
    groups = lab.space.groups
    policy = stack.method.policy(spec.settings)
    return Estimate(
        weights=parameters,
        logits=sum(group.shape[0] * group.shape[1] for group in groups),
        rows=sum(group.shape[0] for group in groups),
        steps_per_epoch=lab.feed.steps_per_epoch(policy, 0, spec.epochs) if spec.epochs else 0,
        wall_s=sum(of_steps.seconds(one) for one in steps) + sum(wide.seconds(one) for one in others),
        peak_bytes=int(max(_kept(steps, of_steps), _kept_by_products(stack, searcher, wide, width)))
        + 4 * width * parameters * 4,
    )


def _kept(steps: Sequence[Passes], cost: PassCost) -> float:
    """Return the bytes of the largest step's maps."""
    return max((STEP_KEEPS * one.images * cost.image_bytes for one in steps), default=0.0)


def _kept_by_products(stack: Stack, searcher: Searcher, cost: PassCost, replicas: int) -> float:
    """Return the bytes that a product with the Hessian takes, for the replicas that are measured at once."""
    share = min(stack.lab.curvature_replicas or replicas, replicas) / replicas
    return PRODUCT_KEEPS * stack.spec.probe_size * cost.image_bytes * share if _measured(stack, searcher) else 0.0


def _steps(stack: Stack) -> list[Passes]:
    """Return the passes of every epoch's steps; a step that does less than one pass's arithmetic has its calls."""
    spec, policy = stack.spec, stack.method.policy(stack.spec.settings)
    work = stack.method.passes_per_step
    calls = max(1.0, work)
    return [
        Passes(
            stack.lab.feed.steps_per_epoch(policy, epoch, spec.epochs) * calls,
            policy.batch_size(epoch, spec.batch_size),
            work / calls,
        )
        for epoch in range(spec.epochs)
    ]


def _curvature(stack: Stack, searcher: Searcher) -> list[Passes]:
    """Return the passes of all measurements of λ: some products each, more where the whole spectrum is due."""
    spec, settings = stack.spec, stack.spec.curvature
    if not _measured(stack, searcher):
        return []
    due = [epoch for epoch in range(spec.epochs + 1) if epoch % spec.curvature_every == 0 or epoch == spec.epochs]
    whole = sum(epoch_wants_spectrum(epoch, spec.epochs, settings) for epoch in due)
    # The whole spectrum and the legacy one take a product for each direction that is not null, λ in simplex coordinates
    # about as many as λ.
    directions = sum(group.shape[0] * (group.shape[1] - 1) for group in stack.lab.groups)
    points = len(due) + 2 * whole
    products = PRODUCTS * (len(due) + whole) + 2 * directions * whole
    return [
        Passes(points, spec.probe_size),
        Passes(CALLS_PER_PRODUCT * products, spec.probe_size, WORK_PER_PRODUCT / CALLS_PER_PRODUCT),
    ]


def _measured(stack: Stack, searcher: Searcher) -> bool:
    return stack.spec.curvature.mode != "off" and searcher.no_curvature is None


def _extent(stack: Stack) -> Extent:
    spec, feed = stack.spec, stack.lab.feed
    half, evaluation = feed.evaluation_sizes("val")
    return Extent(stack.lab.groups, spec.epochs, half, evaluation, spec.batch_size)


def _cost(stack: Stack, network: Supernet, kind: torch.dtype) -> PassCost:
    """Measure passes over images of a type, in the arithmetic of steps."""
    with precision.arithmetic(stack.spec.precision):
        (small_s, _), (large_s, saved) = (_pass(stack, network, _batch(stack, images, kind)) for images in IMAGES)
    return PassCost(*line(small_s, large_s), saved / IMAGES[1])


def line(small_s: float, large_s: float) -> tuple[float, float]:
    """Return seconds a pass and an image of the line through two passes over `IMAGES`; neither is negative."""
    small, large = IMAGES
    image_s = min(max(large_s - small_s, 0.0) / (large - small), large_s / large)
    return large_s - large * image_s, image_s


def _pass(stack: Stack, network: Supernet, batch: Batch) -> tuple[float, int]:
    """Return seconds and saved bytes of a forward and backward pass, the quickest of a few."""
    choices = softmax(normal_logits(stack.lab.space.groups, stack.lab.stream("estimate", 1), _like(network)))
    saved: dict[int, int] = {}
    weights = weights_of(network).requires_grad_()

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def both_ways() -> None:
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            losses = _relax.loss(network, batch, choices, weights)
        torch.autograd.grad(losses.sum(), [weights])

    seconds = min(_timed(both_ways, stack.lab.device) for _ in range(ROUNDS))
    return seconds, sum(saved.values())


def _timed(work: Callable[[], Any], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _batch(stack: Stack, images: int, kind: torch.dtype) -> Batch:
    lab = stack.lab
    shape = (lab.replicas, images, *lab.feed.image_shape)
    drawn = torch.randn(shape, generator=torch_stream(0, "estimate", 2)).to(lab.device, kind)
    return Batch(drawn, torch.zeros(shape[:2], dtype=torch.long, device=lab.device))


def _like(network: Supernet) -> torch.Tensor:
    return next(value for _, value in network.named_parameters())
