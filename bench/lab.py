"""What the loop lends a searcher: networks, evaluations and random streams of one stack of seeds."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bench.data.feed import Feed
from bench.kernels import ONCE, Kernels
from bench.layers import settle
from bench.replay import Recorder
from bench.rng import torch_stream
from bench.spaces.base import NetworkSize, Space
from searchers._relax import cross_entropy
from searchers.base import (
    Batch,
    Choices,
    DataPolicy,
    Evaluation,
    Group,
    Horizon,
    StepBatches,
    Supernet,
    SupernetOptions,
)


@dataclass(frozen=True)
class Lab:
    """Resources of one stack; see `searchers.base.Resources`.

    Attributes:
        curvature_replicas: most replicas whose λ is measured at once, None: all.
        recorder: records what is done again and again (`bench.replay`); None: nothing is recorded.
        kernels: what networks compute passes with that are differentiated once at most.
    """

    space: Space
    size: NetworkSize
    seeds: tuple[int, ...]
    feed: Feed
    horizon: Horizon
    device: torch.device
    dtype: torch.dtype
    probe_size: int
    curvature_replicas: int | None = None
    recorder: Recorder | None = None
    kernels: Kernels = ONCE

    @property
    def groups(self) -> tuple[Group, ...]:
        return self.space.groups

    @property
    def replicas(self) -> int:
        return len(self.seeds)

    def build(self, options: SupernetOptions) -> Supernet:
        network = self.space.supernet(self.size, self.replicas, options)
        assert isinstance(network, nn.Module)
        network.once = self.kernels  # type: ignore[assignment]
        network.to(dtype=self.dtype)
        settle(network, self.stream("weights", 0), self.device)
        return network

    def evaluate(self, network: Supernet, choices: Choices, split: str, batches: range | None) -> Evaluation:
        correct, losses, images = _zeros(self), _zeros(self), 0
        with torch.no_grad():
            for batch in self.feed.evaluation(split, batches):
                predictions = network(batch.images, choices)
                n = batch.labels.shape[1]
                correct += (predictions.argmax(-1) == batch.labels).sum(1)
                losses += n * cross_entropy(predictions, batch)
                images += n
        return Evaluation(correct / images, losses / images)

    def served(self, policy: DataPolicy, epoch: int) -> Iterator[StepBatches]:
        epochs = max(self.horizon.epochs, epoch + 1)
        return self.feed.epoch(policy, epoch, epochs)

    def probe(self) -> Batch:
        return self.feed.probe(self.probe_size)

    def stream(self, name: str, step: int) -> tuple[torch.Generator, ...]:
        return tuple(torch_stream(seed, name, step) for seed in self.seeds)


def _zeros(lab: Lab) -> Float[Tensor, " replicas"]:
    return torch.zeros(lab.replicas, device=lab.device, dtype=lab.dtype)
