"""How a dataset's images are divided between weights and choices.

`first_second` halves the training images in their order, as NAS-Bench-1Shot1. `nb201` is the division of NAS-Bench-201
(Dong and Yang 2020, https://arxiv.org/abs/2001.00326, section 2.2): CIFAR-10's training images in two published halves;
for CIFAR-100 and ImageNet16-120 all training images train weights, and the published half `x-valid` of the official
test images trains choices, the other half, `x-test`, is held out. The table's accuracies are of these very images.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from bench.data.types import ImageSet

Halves = tuple[Int64[Tensor, " first"], Int64[Tensor, " second"]]
RULES = ("first_second", "nb201")


@dataclass(frozen=True)
class SplitFile:
    """A published division of images into two disjoint halves: JSON, each half a list behind the name of its type.

    Attributes:
        name: of the file in the folder of downloaded data.
        halves: names of the halves in the file.
        prepared: what `python -m bench.prepare` calls it.
    """

    name: str
    halves: tuple[str, str]
    prepared: str


@dataclass(frozen=True)
class Pool:
    """What a searcher sees of a dataset, and what it does not.

    Attributes:
        search: the images of both halves.
        train_indices: positions in `search` of the images for weights; `val_indices` of those for choices.
        held_out: images no searcher sees.
    """

    search: ImageSet
    train_indices: Int64[Tensor, " train"]
    val_indices: Int64[Tensor, " val"]
    held_out: ImageSet


def check_rule(split_rule: str, title: str) -> None:
    """Raise ValueError if there is no such rule."""
    if split_rule not in RULES:
        raise ValueError(f"expected a split rule of {title} out of {sorted(RULES)}, got {split_rule!r}")


def first_second(images: int) -> Halves:
    """Return the positions of the first and of the last half."""
    order = torch.arange(images)
    return order[: images // 2], order[images // 2 :]


def read(file: SplitFile, root: Path, images: int) -> Halves:
    """Return the ascending positions of both halves.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: it does not divide so many images into two disjoint halves of one size.
    """
    path = root / file.name
    if not path.is_file():
        raise FileNotFoundError(
            f"expected the NAS-Bench-201 split in {path}, found no such file: python -m bench.prepare {file.prepared}"
        )
    return parse(path.read_bytes(), file, images, str(path))


def parse(raw: bytes, file: SplitFile, images: int, place: str) -> Halves:
    """Return the ascending positions of both halves out of a split file's bytes."""
    try:
        typed = json.loads(raw)
        first, second = (torch.tensor(sorted(int(index) for index in typed[name][1])) for name in file.halves)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError) as error:
        expected = " and ".join(f'"{name}": ["int", […]]' for name in file.halves)
        raise ValueError(f"expected {expected} in {place}, got something else: {error!r}") from error
    both = torch.cat([first, second]).sort().values
    if len(first) != len(second) or not torch.equal(both, torch.arange(images)):
        raise ValueError(
            f"expected {place} to split {images} images into two disjoint halves, got {len(first)} and {len(second)} "
            f"indices, {len(both.unique())} of them distinct"
        )
    return first, second


def halved(train: ImageSet, held_out: ImageSet, halves: Halves) -> Pool:
    """Return a pool of the training images, in two halves."""
    return Pool(train, *halves, held_out)


def of_rule(split_rule: str, file: SplitFile, root: Path, train: ImageSet, official_test: ImageSet) -> Pool:
    """Return the pool of a dataset whose published division is one of its official test images."""
    if split_rule == "nb201":
        return lent(train, official_test, read(file, root, len(official_test.labels)))
    return halved(train, official_test, first_second(len(train.labels)))


def lent(train: ImageSet, official_test: ImageSet, halves: Halves) -> Pool:
    """Return a pool of all training images and the first half of the official test images, which train the choices."""
    valid, test = (ImageSet(official_test.images[half], official_test.labels[half]) for half in halves)
    search = ImageSet(torch.cat([train.images, valid.images]), torch.cat([train.labels, valid.labels]))
    order = torch.arange(len(search.labels))
    return Pool(search, order[: len(train.labels)], order[len(train.labels) :], test)
