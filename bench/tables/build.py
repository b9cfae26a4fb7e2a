"""Build a benchmark table: train every distinct cell of a space from scratch on a small dataset.

Cells are stacked along the replicas axis, each replica computing its own operations only. Every (cell, run) draws its
weights, order and augmentation from streams named by its key and run, so its result does not depend on what it is
stacked with, up to rounding. Training uses both halves of the search pool; validation and test accuracies are of images
no training and no search sees.
"""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bench import data
from bench.data.augment import Augmentation
from bench.data.feed import Feed, FeedSettings
from bench.data.types import Dataset, ImageSet, balanced
from bench.ops import initialise
from bench.rng import derive, torch_stream
from bench.spaces.base import Genotype, NetworkSize, Space, discrete_choices
from bench.tables.data import Measurement, Slot, TableData
from searchers._bilevel import weight_step
from searchers._optim import SGD, WeightSettings, cosine
from searchers.base import Choices, DataPolicy, Supernet, SupernetOptions

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Protocol:
    """How a cell is trained; NAS-Bench-201's optimiser at a small size.

    On toy and the digits: a minute on two cores, Spearman .78 between two runs, 18 % to 46 % test accuracy from the
    10th to the 90th percentile; half the images for twice the epochs rank worse (.65), three epochs better (.87).

    Attributes:
        train_images: at most, of both halves of the search pool.
        eval_images: at most, of each of validation and test.
    """

    epochs: int = 2
    train_images: int = 1600
    eval_images: int = 800
    runs: int = 2
    channels: int = 8
    cells: int = 1
    batch_size: int = 32
    weights: WeightSettings = WeightSettings(lr=0.05, lr_min=0.0, weight_decay=5e-4, nesterov=True)
    augmentation: Augmentation = Augmentation(padding=1, flip=False, cutout_length=0)
    replicas: int = 6


@dataclass(frozen=True)
class Job:
    """One training: a cell and the number of the run."""

    key: str
    genotype: Genotype
    run: int

    @property
    def seed(self) -> int:
        return derive(self.run, f"cell/{self.key}", 0)


def build(space: Space, dataset: Dataset, protocol: Protocol, device: torch.device, report: Report) -> TableData:
    """Return the table of a space; `report` is told (epochs of all trainings done, and in all).

    Raises:
        ValueError: the dataset has no images set aside for a table.
    """
    _parts(dataset)
    halves = 2 * min(len(dataset.train_indices), len(dataset.val_indices))
    dataset = data.subset(dataset, min(protocol.train_images, halves))
    cells = representatives(space)
    # Cells of equal operations lie side by side, so that an operation is computed for few stretches of replicas.
    ordered = sorted(cells.items(), key=lambda item: (item[1]["op"], item[0]))
    jobs = [Job(key, genotype, run) for key, genotype in ordered for run in range(protocol.runs)]
    start, found, done = time.perf_counter(), [], 0
    for first in range(0, len(jobs), protocol.replicas):
        stack = jobs[first : first + protocol.replicas]

        def tick(trained: int = len(stack)) -> None:
            nonlocal done
            done += trained
            report(done, len(jobs) * protocol.epochs)

        found.append(train(space, dataset, protocol, stack, device, tick))
    accuracies = np.concatenate(found).reshape(len(ordered), protocol.runs, 2)
    return _table(space, dataset, protocol, ordered, (accuracies, time.perf_counter() - start))


def identity(dataset: Dataset, protocol: Protocol) -> str:
    """Return what decides a table's numbers beside its space: the protocol and a digest of the images."""
    digest = hashlib.sha256()
    for images in (dataset.search, *_parts(dataset)):
        digest.update(images.images.numpy().tobytes() + images.labels.numpy().tobytes())
    return f"trained by bench.tables.build: {protocol}; images {digest.hexdigest()[:16]}"


def _parts(dataset: Dataset) -> tuple[ImageSet, ImageSet]:
    """Return the images that validation and test accuracy are measured on."""
    if dataset.table_val is None or dataset.test is None:
        raise ValueError(
            f"expected a dataset with images for a table's validation, such as digits, got {dataset.name!r}"
        )
    return dataset.table_val, dataset.test


def representatives(space: Space) -> dict[str, Genotype]:
    """Return the first encoding of every key."""
    cells: dict[str, Genotype] = {}
    for genotype in space.cells():
        cells.setdefault(space.key(genotype), genotype)
    return cells


def train(
    space: Space,
    dataset: Dataset,
    protocol: Protocol,
    jobs: Sequence[Job],
    device: torch.device,
    tick: Callable[[], None],
) -> np.ndarray:
    """Train a stack of cells, calling `tick` after every epoch; return "jobs 2": validation and test accuracy."""
    seeds = tuple(job.seed for job in jobs)
    size = NetworkSize(protocol.channels, protocol.cells, dataset.search.images.shape[1], dataset.classes)
    network = space.supernet(size, len(jobs), SupernetOptions())
    assert isinstance(network, torch.nn.Module)
    initialise(network, [torch_stream(seed, "weights", 0) for seed in seeds])
    network.to(device)
    choices = discrete_choices(space.groups, [job.genotype for job in jobs], next(network.parameters()))
    optimiser = SGD(dict(network.named_parameters()), protocol.weights)
    policy = DataPolicy(split="all", val_batches=0)
    feed = _feed(dataset, seeds, protocol, device)
    for epoch in range(protocol.epochs):
        rate = cosine(protocol.weights, epoch, protocol.epochs)
        for batches in feed.epoch(policy, epoch, protocol.epochs):
            weight_step(network, optimiser, batches.train[0], choices, rate)
        tick()
    held_out = [_held_out(dataset, images, protocol.eval_images) for images in _parts(dataset)]
    scores = [accuracy(network, _feed(part, seeds, protocol, device), choices) for part in held_out]
    return np.stack(scores, 1)


def accuracy(network: Supernet, feed: Feed, choices: Choices) -> np.ndarray:
    """Return the accuracy of each replica on the feed's validation images."""
    correct, images = torch.zeros(network.replicas, dtype=torch.int64), 0
    with torch.no_grad():
        for batch in feed.evaluation("val"):
            correct += (network(batch.images, choices).argmax(-1) == batch.labels).sum(1).cpu()
            images += batch.labels.shape[1]
    return correct.double().numpy() / images


def _feed(dataset: Dataset, seeds: tuple[int, ...], protocol: Protocol, device: torch.device) -> Feed:
    settings = FeedSettings(protocol.batch_size, protocol.augmentation, eval_batch_size=250, cutout_ramp=False)
    return Feed(dataset, seeds, settings, device, torch.float32)


def _held_out(dataset: Dataset, images: ImageSet, size: int) -> Dataset:
    """Return the dataset with these images, at most `size`, in place of the validation half."""
    chosen = balanced(images.labels, size, dataset.classes)
    return dataclasses.replace(dataset, search=images, val_indices=chosen)


def _table(
    space: Space,
    dataset: Dataset,
    protocol: Protocol,
    cells: Sequence[tuple[str, Genotype]],
    measured: tuple[np.ndarray, float],
) -> TableData:
    accuracies, wall_s = measured
    multiplicities, runs = space.multiplicities(), tuple(str(run) for run in range(protocol.runs))
    splits = (("val", accuracies[:, :, 0]), ("test", accuracies[:, :, 1]))
    return TableData(
        space=space.name,
        keys=tuple(key for key, _ in cells),
        cells=tuple(space.describe(genotype) for _, genotype in cells),
        multiplicities=np.array([multiplicities[key] for key, _ in cells], dtype=np.int64),
        measurements={
            Slot(dataset.name, split, protocol.epochs): Measurement(values, runs)  # type: ignore[arg-type]
            for split, values in splits
        },
        total_encodings=space.size(),
        source=f"{space.name} on {dataset.name}, built by nas-stability",
        provenance=(identity(dataset, protocol), f"trained in {wall_s:.0f} s with torch {torch.__version__}"),
    )
