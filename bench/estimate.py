"""What a stack would cost, from one forward and backward pass on a few images; nothing is trained."""

import time
from dataclasses import dataclass

import torch

from bench.ops import initialise
from bench.rng import torch_stream
from bench.search import Stack
from searchers._relax import cross_entropy, normal_logits, softmax
from searchers.base import Batch, SupernetOptions
from searchers.entry import Extent

IMAGES = 8
PRODUCTS = 10
PASSES_PER_PRODUCT = 2.0


@dataclass(frozen=True)
class Estimate:
    """Cost of a stack of seeds.

    Attributes:
        weights: of one replica's supernet.
        steps_per_epoch: of the first epoch.
        wall_s: seconds for all epochs: steps, what the method evaluates besides, and curvature; extrapolated linearly
            in the batch.
        peak_bytes: activations, weights and optimiser state at the larger of batch and probe.
    """

    weights: int
    logits: int
    rows: int
    steps_per_epoch: int
    wall_s: float
    peak_bytes: int


def estimate(stack: Stack) -> Estimate:
    """Measure one pass of the mixture on 8 images and scale it to the stack's whole search."""
    lab, spec, method = stack.lab, stack.spec, stack.method
    searcher_policy = method.policy(spec.settings)
    network = lab.space.supernet(lab.size, lab.replicas, SupernetOptions())
    assert isinstance(network, torch.nn.Module)
    initialise(network, lab.stream("estimate", 0))
    network.to(lab.device, lab.dtype)
    parameters = sum(parameter[0].numel() for _, parameter in network.named_parameters())
    image_s, image_bytes = _pass(stack, network)
    epochs = range(spec.epochs)
    steps = [lab.feed.steps_per_epoch(searcher_policy, epoch, spec.epochs) for epoch in epochs]
    sizes = [searcher_policy.batch_size(epoch, spec.batch_size) for epoch in epochs]
    measured = 0 if spec.curvature.mode == "off" else spec.probe_size * (1 + PASSES_PER_PRODUCT * PRODUCTS)
    trained = sum(count * size for count, size in zip(steps, sizes, strict=True))
    images = trained * method.passes_per_step + spec.epochs * measured / spec.curvature_every
    images += method.evaluated(spec.settings, _extent(stack))
    groups = lab.space.groups
    return Estimate(
        weights=parameters,
        logits=sum(group.shape[0] * group.shape[1] for group in groups),
        rows=sum(group.shape[0] for group in groups),
        steps_per_epoch=next(iter(steps), 0),
        wall_s=images * image_s,
        peak_bytes=int(max([*sizes, 2 * spec.probe_size]) * image_bytes) + 4 * lab.replicas * parameters * 4,
    )


def _extent(stack: Stack) -> Extent:
    spec, feed = stack.spec, stack.lab.feed
    half, evaluation = feed.evaluation_sizes("val")
    return Extent(stack.lab.groups, spec.epochs, half, evaluation, spec.batch_size)


def _pass(stack: Stack, network: torch.nn.Module) -> tuple[float, float]:
    """Return seconds and saved bytes of a forward and backward pass, per image of every replica."""
    lab = stack.lab
    shape = (lab.replicas, IMAGES, *stack.lab.feed.image_shape)
    images = torch.randn(shape, generator=torch_stream(0, "estimate", 2)).to(lab.device, lab.dtype)
    labels = torch.zeros(shape[:2], dtype=torch.long, device=lab.device)
    like = next(network.parameters())
    choices = softmax(normal_logits(lab.space.groups, lab.stream("estimate", 1), like))
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    seconds = []
    for _ in range(3):
        saved.clear()
        start = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = cross_entropy(network(images, choices), Batch(images, labels)).sum()
        torch.autograd.grad(loss, list(network.parameters()))
        if lab.device.type == "cuda":
            torch.cuda.synchronize(lab.device)
        seconds.append(time.perf_counter() - start)
    return min(seconds) / IMAGES, sum(saved.values()) / IMAGES
