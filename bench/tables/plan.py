"""Which table is built: the protocol every cell is trained by, the images, and the trainings.

Cells of one structure are one network and are trained once; cells of equal operations lie side by side.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from bench.cores import Work
from bench.data.augment import Augmentation
from bench.data.types import Dataset, ImageSet
from bench.rng import derive
from bench.spaces.base import Genotype, NetworkSize, Space
from searchers._optim import WeightSettings

NUMBER_BYTES = 2**10
"""That training takes for every number of a network's map in the first stage: 64 networks of 2¹⁴ numbers took .72
(nb201) and 1.03 GB (s1) with all of their process."""


@dataclass(frozen=True)
class Protocol:
    """How a cell is trained; NAS-Bench-201's optimiser at a small size.

    Attributes:
        train_images: at most, of both halves of the search pool.
        eval_images: at most, of each of training, validation and test.
        replicas: cells trained together; changes nothing but the speed and the rounding.
    """

    epochs: int = 4
    train_images: int = 1600
    eval_images: int = 800
    runs: int = 2
    channels: int = 4
    cells: int = 1
    batch_size: int = 64
    weights: WeightSettings = WeightSettings(lr=0.05, lr_min=0.0, weight_decay=5e-4, nesterov=True)
    augmentation: Augmentation = Augmentation(padding=1, flip=False, cutout_length=0)
    replicas: int = 64

    @property
    def instants(self) -> tuple[int, ...]:
        """Epochs after which accuracies are taken: a quarter, half and all of them."""
        return tuple(sorted({max(1, self.epochs // 4), max(1, self.epochs // 2), self.epochs}))


def protocol(space: str) -> Protocol:
    """Return how the cells of a space are trained; docs/embedded.md has the evidence for it.

    In nb201 a cell without convolutions adds up copies of its input, and only a second cell a stage lets them drown
    what the blocks between the stages compute: with one, skips alone are above the median. Cells of NAS-Bench-1Shot1
    differ less, and need twice the steps until two runs of one agree.
    """
    if space == "nb201":
        return Protocol(cells=2, weights=dataclasses.replace(Protocol().weights, lr=0.1))
    return Protocol(epochs=8) if space in {"s1", "s2", "s3"} else Protocol()


@dataclass(frozen=True)
class Job:
    """One training: a cell and the number of the run.

    Attributes:
        structure: names the cell in the streams and among the trainings that are done.
    """

    structure: str
    genotype: Genotype
    run: int

    @property
    def seed(self) -> int:
        return derive(self.run, f"cell/{self.structure}", 0)


class Plan(NamedTuple):
    """Which table is built."""

    space: Space
    dataset: Dataset
    protocol: Protocol

    @property
    def size(self) -> NetworkSize:
        """Size of the trained networks."""
        channels = self.dataset.search.images.shape[1]
        return NetworkSize(self.protocol.channels, self.protocol.cells, channels, self.dataset.classes)

    @property
    def work(self) -> Work:
        """What a process does that trains stacks."""
        numbers = self.protocol.batch_size * self.protocol.channels * self.dataset.search.images.shape[-1] ** 2
        return Work(numbers, NUMBER_BYTES * numbers * self.protocol.replicas)


def jobs(plan: Plan) -> list[Job]:
    """Return all trainings of a table; cells of equal operations lie side by side.

    An operation is then computed for few stretches of replicas.
    """
    found = first_encodings(plan.space, plan.space.structure)
    ordered = sorted(found.items(), key=lambda item: (item[1]["op"], item[0]))
    return [Job(structure, genotype, run) for structure, genotype in ordered for run in range(plan.protocol.runs)]


def identity(plan: Plan) -> str:
    """Return what decides a table's numbers beside its space: the protocol and a digest of the images.

    Raises:
        ValueError: the dataset has no images set aside for a table.
    """
    dataset, digest = plan.dataset, hashlib.sha256()
    for images in (dataset.search, *held_out(dataset)):
        digest.update(images.images.numpy().tobytes() + images.labels.numpy().tobytes())
    decisive = dataclasses.replace(plan.protocol, replicas=0)
    return f"trained by bench.tables.build: {decisive}; images {digest.hexdigest()[:16]}"


def held_out(dataset: Dataset) -> tuple[ImageSet, ImageSet]:
    """Return the images that validation and test accuracy are measured on."""
    if dataset.table_val is None or dataset.test is None:
        raise ValueError(f"expected a dataset with test images and images set aside, got {dataset.name!r} without")
    return dataset.table_val, dataset.test


def set_aside(dataset: Dataset) -> Dataset:
    """Return the dataset with images for a table's validation.

    Where it has none of its own they are the validation half of the pool, and only the other half is trained on, as in
    NAS-Bench-201's protocol of its CIFAR-10 validation accuracies.
    """
    if dataset.table_val is not None:
        return dataset
    half, val = len(dataset.train_indices) // 2, dataset.val_indices
    return dataclasses.replace(
        dataset,
        train_indices=dataset.train_indices[:half],
        val_indices=dataset.train_indices[half:],
        table_val=ImageSet(dataset.search.images[val], dataset.search.labels[val]),
    )


def first_encodings(space: Space, name: Callable[[Genotype], str]) -> dict[str, Genotype]:
    """Return the first encoding of every name: of every structure, or of every key."""
    cells: dict[str, Genotype] = {}
    for genotype in space.cells():
        cells.setdefault(name(genotype), genotype)
    return cells
