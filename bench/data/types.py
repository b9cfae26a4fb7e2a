"""What a dataset is: images and labels on the host, and two fixed disjoint halves of the pool a searcher sees."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Raw images (0 is black, 255 is full) and their class numbers."""

    images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification task for a search.

    Attributes:
        search: the pool the searcher sees.
        train_indices: the half of the pool that trains weights.
        val_indices: the half that trains choices, disjoint from the other.
        table_val: what the embedded table's validation accuracy is measured on; None where a table is not built here.
        test: held-out images; no searcher receives them.
        mean: per channel, of pixels in [0, 1]; images are normalised on the device, batch by batch.
        std: per channel, like `mean`.
        flip: whether a mirrored image is of the same class.
    """

    name: str
    search: ImageSet
    train_indices: Int64[Tensor, " train"]
    val_indices: Int64[Tensor, " val"]
    table_val: ImageSet | None
    test: ImageSet | None
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool


def balanced(labels: Int64[Tensor, " n"], size: int, classes: int) -> Int64[Tensor, " size"]:
    """Return ascending positions of `size` images, the first of each class, classes as equal as they can be.

    An image's rank is the number of earlier images of its class; the lowest ranks are kept, ties by position.
    """
    if size == len(labels):
        return torch.arange(size)
    earlier = torch.nn.functional.one_hot(labels, classes).cumsum(0) - 1
    rank = earlier.gather(1, labels[:, None]).squeeze(1)
    return rank.argsort(stable=True)[:size].sort().values


def subset(dataset: Dataset, train_size: int) -> Dataset:
    """Return the dataset with `train_size` images in both halves together: the first of each class.

    The halves are equal until the smaller one is used up; all further images are of the larger one.
    """
    lengths = len(dataset.train_indices), len(dataset.val_indices)
    smaller = min(train_size // 2, *lengths)
    larger = train_size - smaller
    uneven = larger != smaller and smaller != min(lengths)
    if uneven or not dataset.classes <= smaller <= larger <= max(lengths):
        least, most = 2 * dataset.classes, sum(lengths)
        raise ValueError(
            f"expected an even train_size from {least} (one image a class in each half) to {most} "
            f"(all of {dataset.name}), got {train_size}"
        )
    sizes = (larger, smaller) if lengths[0] >= lengths[1] else (smaller, larger)
    train, val = (
        indices[balanced(dataset.search.labels[indices], size, dataset.classes)]
        for indices, size in zip((dataset.train_indices, dataset.val_indices), sizes, strict=True)
    )
    return replace(dataset, train_indices=train, val_indices=val)
