"""Small laboratories for the tests of searchers: a few random images, tiny networks, float64."""

import dataclasses
import io
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bench import spaces
from bench.data.augment import Augmentation
from bench.data.feed import Feed, FeedSettings
from bench.data.types import Dataset, ImageSet
from bench.lab import Lab
from bench.spaces.base import NetworkSize
from searchers._early_stop import CodeRule, StopSettings
from searchers._optim import Layout
from searchers._ranking import RankingSettings
from searchers.base import Batch, Choices, DataPolicy, ForwardInputs, Horizon, Searcher, StepBatches, StepLosses
from searchers.entry import Method

CLASSES, SIDE, HALF, BATCH, EPOCHS = 4, 8, 24, 8, 3
CPU = torch.device("cpu")


class Network(nn.Module):
    """A network with a pass of its own, `compute`, that also takes weights side by side."""

    def forward(self, images: Tensor, choices: Choices, inputs: ForwardInputs = ForwardInputs()) -> Tensor:
        if inputs.weights is None:
            return self.compute(images, choices, inputs)
        own = dataclasses.replace(inputs, weights=None)
        by_name = Layout(dict(self.named_parameters())).split(inputs.weights)
        return torch.func.functional_call(self, by_name, (images, choices, own))


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dataset() -> Dataset:
    """Random images with a faint trace of their class."""
    labels = torch.arange(2 * HALF) % CLASSES
    images = torch.randint(0, 200, (2 * HALF, 3, SIDE, SIDE), generator=rng(0))
    images[torch.arange(2 * HALF), 0, labels] += 55
    order = torch.arange(2 * HALF)
    return Dataset(
        "random",
        ImageSet(images.to(torch.uint8), labels),
        order[:HALF],
        order[HALF:],
        None,
        None,
        CLASSES,
        (0.4, 0.4, 0.4),
        (0.25, 0.25, 0.25),
        flip=True,
    )


def make(
    space: str = "toy",
    seeds: tuple[int, ...] = (0, 1),
    dtype: torch.dtype = torch.float64,
    channels: int = 2,
    device: torch.device = CPU,
) -> Lab:
    """One cell a stage, 24 images a half, batches of 8: three steps an epoch."""
    augmentation = Augmentation(padding=1, flip=True, cutout_length=2)
    feed = Feed(dataset(), seeds, FeedSettings(BATCH, augmentation, 10, cutout_ramp=True), device, dtype)
    size = NetworkSize(channels, 1, 3, CLASSES)
    return Lab(spaces.get(space), size, seeds, feed, Horizon(EPOCHS), device, dtype, probe_size=8)


QUICK: dict[str, Any] = {
    "ranking": RankingSettings(candidates=6, batches=1, finalists=2),
    "batch_size": None,
    "partial_channels": 2,
    # After the second epoch, back to the first.
    "stop": StopSettings(code=CodeRule(every=1, window=1, delta=1, factor=0.0, start=0)),
    "window": 2,
    "patience": 1,
    "warm_up": 0.0,
    "arch_every": 1,
    "inner": 1,  # an epoch has three batches
    "proposals": 1,
    "validation": 1,
    "permutations": 1,
}
"""Settings by their names, whatever method has them."""


def quick(method: Method) -> Any:
    """The method's defaults, but for what only costs time, does not fit two channels or comes after many epochs."""
    settings = method.settings()
    names = {field.name for field in dataclasses.fields(settings)}
    changes = {name: value for name, value in QUICK.items() if name in names}
    if "evolution" in names:
        changes["evolution"] = dataclasses.replace(settings.evolution, population=4, generations=2, parents=2)
    if "reinforce" in names:
        changes["reinforce"] = dataclasses.replace(settings.reinforce, steps=3)
    return dataclasses.replace(settings, **changes)


def start(method: Method, lab: Lab) -> Searcher:
    return method.build(quick(method), lab)


def steps(lab: Lab, policy: DataPolicy, count: int) -> Iterator[StepBatches]:
    """The first `count` steps of the search, over as many epochs as they take."""
    epoch = 0
    while count > 0 and policy.train_batches:
        for batches in lab.feed.epoch(policy, epoch, EPOCHS):
            if count > 0:
                yield batches
            count -= 1
        epoch += 1


def drive(
    searcher: Searcher, lab: Lab, first: int, end: int, between: Callable[[Searcher], None] = lambda _searcher: None
) -> list[StepLosses]:
    """Search the epochs from `first` to before `end`; call `between` before every step and after every epoch.

    What trains nothing has no epochs: all of its search is its end.
    """
    losses = []
    for epoch in range(first, end):
        searcher.begin_epoch(epoch)
        for batches in lab.feed.epoch(searcher.policy, epoch, EPOCHS):
            between(searcher)
            losses.append(searcher.step(batches))
        searcher.end_epoch(epoch)
        between(searcher)
    if not searcher.policy.train_batches:
        searcher.finish()
        between(searcher)
    return losses


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Nested dicts, tuples and lists as path to leaf; tensors are copied."""
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, tuple | list):
        items = list(enumerate(value))
    else:
        return {path: value.detach().clone() if isinstance(value, Tensor) else value}
    return {key: leaf for name, inner in items for key, leaf in leaves(inner, f"{path}/{name}").items()}


def outcome(searcher: Searcher, losses: list[StepLosses]) -> dict[str, Any]:
    """All that can be seen of a search, every tensor with the replicas axis first."""
    parameters = dict(searcher.supernet.named_parameters())
    seen = {"weights": parameters, "logits": searcher.logits(), "selected": searcher.selected(), "losses": losses}
    return leaves(seen)


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Equal to the bit."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        equal = torch.equal(value, other[name]) if isinstance(value, Tensor) else value == other[name]
        assert equal, f"{name}: {value} != {other[name]}"


def close(one: dict[str, Any], other: dict[str, Any], tolerance: float = 1e-9) -> None:
    """Equal up to rounding, relative to the largest entry of each tensor."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, Tensor):
            gap = (value - other[name]).abs().max()
            assert gap <= tolerance * (1 + value.abs().max()), f"{name}: {gap}"
        else:
            assert value == other[name], name


def replicas(seen: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    return {name: value[rows] if isinstance(value, Tensor) else value for name, value in seen.items()}


def through_disk(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def fake_batch(replicas_: int, n: int = 8, seed: int = 0, shape: tuple[int, ...] = (3, SIDE, SIDE)) -> Batch:
    """Random images and labels, others for every replica."""
    stream = rng(seed)
    images = torch.randn((replicas_, n, *shape), generator=stream, dtype=torch.float64)
    return Batch(images, torch.randint(0, CLASSES, (replicas_, n), generator=stream))


def fake_step(replicas_: int, seed: int = 0, shape: tuple[int, ...] = (3, SIDE, SIDE)) -> StepBatches:
    return StepBatches(
        (fake_batch(replicas_, seed=2 * seed, shape=shape),), (fake_batch(replicas_, seed=2 * seed + 1, shape=shape),)
    )
