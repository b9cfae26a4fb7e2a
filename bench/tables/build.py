"""Build a benchmark table: train every distinct cell of a space from scratch on a small dataset.

Cells of one structure are one network and are trained once; the table has a row for every key.

Cells are stacked along the replicas axis, each replica computing its own operations only, but in small stacks of small
maps; cells of equal operations lie side by side. Every (cell, run) draws its weights, order and augmentation from
streams named by its key and run, so its result does not depend on what it is stacked with, up to rounding. Training
uses both halves of the search pool; validation and test accuracies are of images no training and no search sees.
Accuracies are taken at a quarter, half and the whole of the budget, of one training with one learning-rate schedule.

Finished trainings are written as they come (`parts`), so that a build can be killed, continued and shared out.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch

from bench import data
from bench.data.feed import Feed, FeedSettings
from bench.data.types import Dataset, ImageSet, balanced
from bench.layers import settle
from bench.rng import torch_stream
from bench.spaces.base import discrete_choices
from bench.tables.cost import cost
from bench.tables.data import BUILT, SPLITS, TIME, Measurement, Quantity, Slot, TableData
from bench.tables.parts import Outcome, Parts
from bench.tables.plan import Job, Plan, Protocol, first_encodings, held_out, identity, jobs
from searchers._bilevel import weight_step
from searchers._optim import SGD, cosine
from searchers.base import Choices, DataPolicy, Supernet, SupernetOptions

Report = Callable[[int, int], None]
Share = tuple[int, int]
"""Which share of the work, counted from 1, out of how many."""


def build(plan: Plan, parts: Parts, share: Share, device: torch.device, report: Report) -> bool:
    """Train what is missing of a share of the cells; return whether the whole table is trained now.

    `report` is told (trainings done, trainings in all) of this share.

    Raises:
        ValueError: the dataset has no images set aside for a table, or the parts are of another protocol.
    """
    everything, replicas = jobs(plan), plan.protocol.replicas
    mine = _part(everything, share, replicas)
    done = parts.read()
    missing = [job for job in mine if (job.structure, job.run) not in done]
    if missing:
        with contextlib.closing(parts.writer("{}-of-{}".format(*share))) as writer:
            for first in range(0, len(missing), replicas):
                writer.add(train(plan, missing[first : first + replicas], device))
                left = max(len(missing) - first - replicas, 0)
                report(len(mine) - left, len(mine))
    done = parts.read()
    return all((job.structure, job.run) in done for job in everything)


def stacks_left(plan: Plan, parts: Parts) -> int:
    """Return how many stacks are not trained yet."""
    done = parts.read()
    return -(-sum((job.structure, job.run) not in done for job in jobs(plan)) // plan.protocol.replicas)


def _part(everything: Sequence[Job], share: Share, replicas: int) -> Sequence[Job]:
    """Return a share: whole stacks, so that a cell's numbers do not depend on how many shares there are."""
    index, shares = share
    stacks = -(-len(everything) // replicas)
    first, last = (replicas * (stacks * i // shares) for i in (index - 1, index))
    return everything[first:last]


def train(plan: Plan, stack: Sequence[Job], device: torch.device) -> list[Outcome]:
    """Train a stack of cells."""
    space, dataset, protocol = plan
    start, seeds = time.perf_counter(), tuple(job.seed for job in stack)
    halves = 2 * min(len(dataset.train_indices), len(dataset.val_indices))
    dataset = data.subset(dataset, min(protocol.train_images, halves))
    network = space.supernet(plan.size, len(seeds), SupernetOptions())
    assert isinstance(network, torch.nn.Module)
    settle(network, [torch_stream(seed, "weights", 0) for seed in seeds], device)
    choices = discrete_choices(space.groups, [job.genotype for job in stack], next(network.parameters()))
    optimiser = SGD(dict(network.named_parameters()), protocol.weights)
    policy, feed = DataPolicy(split="all", val_batches=0), _feed(dataset, seeds, protocol, device)
    held_out = [_feed(part, seeds, protocol, device) for part in _measured(dataset, protocol)]
    correct = []
    for epoch in range(protocol.epochs):
        rate = cosine(protocol.weights, epoch, protocol.epochs)
        for batches in feed.epoch(policy, epoch, protocol.epochs):
            weight_step(network, optimiser, batches.train[0], choices, rate)
        if epoch + 1 in protocol.instants:
            correct.append(np.stack([count_correct(network, part, choices) for part in held_out], 1))
    wall_s = (time.perf_counter() - start) / len(stack)
    counts = np.stack(correct, 1).tolist()
    return [Outcome(job.structure, job.run, _tuples(rows), wall_s) for job, rows in zip(stack, counts, strict=True)]


def _tuples(rows: Sequence[Sequence[int]]) -> tuple[tuple[int, int, int], ...]:
    return tuple((row[0], row[1], row[2]) for row in rows)


def count_correct(network: Supernet, feed: Feed, choices: Choices) -> np.ndarray:
    """Return how many of the feed's validation images each replica classifies correctly."""
    correct = torch.zeros(network.replicas, dtype=torch.int64)
    with torch.no_grad():
        for batch in feed.evaluation("val"):
            correct += (network(batch.images, choices).argmax(-1) == batch.labels).sum(1).cpu()
    return correct.numpy()


def _feed(dataset: Dataset, seeds: tuple[int, ...], protocol: Protocol, device: torch.device) -> Feed:
    settings = FeedSettings(protocol.batch_size, protocol.augmentation, eval_batch_size=250, cutout_ramp=False)
    return Feed(dataset, seeds, settings, device, torch.float32)


def _measured(dataset: Dataset, protocol: Protocol) -> list[Dataset]:
    """Return the dataset with the images of each split, at most `eval_images`, in place of the validation half."""
    pool = torch.cat([dataset.train_indices, dataset.val_indices])
    seen = ImageSet(dataset.search.images[pool], dataset.search.labels[pool])
    parts = []
    for images in (seen, *held_out(dataset)):
        chosen = balanced(images.labels, min(protocol.eval_images, len(images.labels)), dataset.classes)
        parts.append(dataclasses.replace(dataset, search=images, val_indices=chosen))
    return parts


def table(plan: Plan, parts: Parts, provenance: Sequence[str]) -> TableData:
    """Return the table of trainings that are all done."""
    space, dataset, protocol = plan
    done, cells = parts.read(), first_encodings(space, space.key)
    keys = sorted(cells)
    runs = tuple(str(run) for run in range(protocol.runs))
    structures = [space.structure(cells[key]) for key in keys]
    outcomes = [[done[structure, run] for run in range(protocol.runs)] for structure in structures]
    correct = np.array([[outcome.correct for outcome in row] for row in outcomes], dtype=np.float64)
    images = [len(part.val_indices) for part in _measured(dataset, protocol)]
    seconds = np.array([[outcome.wall_s for outcome in row] for row in outcomes])
    measurements = {
        _slot(plan, split, instant): Measurement(correct[:, :, i, s] / images[s], runs)
        for i, instant in enumerate(protocol.instants)
        for s, split in enumerate(SPLITS.values())
    }
    multiplicities = space.multiplicities()
    return TableData(
        space=space.name,
        keys=tuple(keys),
        cells=tuple(space.describe(cells[key]) for key in keys),
        multiplicities=np.array([multiplicities[key] for key in keys], dtype=np.int64),
        measurements=measurements,
        scalars=_costs(plan, structures) | _train_time(plan, seconds.mean(1)),
        total_encodings=space.size(),
        source=f"{space.name} on {dataset.name}, {BUILT}",
        provenance=(identity(plan), _spent(done.values()), *provenance),
    )


def _spent(outcomes: Collection[Outcome]) -> str:
    return f"{len(outcomes)} trainings, {sum(outcome.wall_s for outcome in outcomes):.0f} s in all"


def _costs(plan: Plan, structures: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the costs of networks, given by their structures."""
    side = plan.dataset.search.images.shape[-1]
    cells = first_encodings(plan.space, plan.space.structure)
    costs = {structure: cost(plan.space, cells[structure], plan.size, side) for structure in set(structures)}
    found = [costs[structure] for structure in structures]
    return {name: np.array([getattr(one, name) for one in found], dtype=np.float64) for name in ("params", "flops")}


def _train_time(plan: Plan, seconds: np.ndarray) -> dict[str, np.ndarray]:
    """Return the seconds until each instant; a part of the training costs its part of the whole."""
    protocol = plan.protocol
    return {_slot(plan, TIME, instant).name: seconds * instant / protocol.epochs for instant in protocol.instants}


def _slot(plan: Plan, what: Quantity, instant: int) -> Slot:
    """Return what a measurement after so many epochs is of; before the last one the rate is far from its end."""
    epochs = plan.protocol.epochs
    return Slot(plan.dataset.name, what, epochs, None if instant == epochs else instant)
