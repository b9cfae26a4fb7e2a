"""Data: images and labels with two fixed disjoint halves, augmentation on the device, and the feed of a search."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import platformdirs

from bench.data import cifar10, cifar100, digits, imagenet16
from bench.data.batches import Batches
from bench.data.splits import SplitFile
from bench.data.types import Dataset, ImageSet, subset

__all__ = ["OFFICIAL", "Dataset", "ImageSet", "Official", "data_root", "load", "subset"]


class Official(NamedTuple):
    """A dataset that is read from its authors' files: how, which files, and NAS-Bench-201's division of its images."""

    load: Callable[[Path, str], Dataset]
    batches: Batches
    split: SplitFile


OFFICIAL: Mapping[str, Official] = {
    "cifar10": Official(cifar10.load, cifar10.BATCHES, cifar10.SPLIT),
    "cifar100": Official(cifar100.load, cifar100.BATCHES, cifar100.SPLIT),
    "imagenet16": Official(imagenet16.load, imagenet16.BATCHES, imagenet16.SPLIT),
}


def data_root() -> Path:
    """Return the folder of downloaded data: `NAS_STABILITY_DATA`, by default the user's cache folder."""
    named = os.environ.get("NAS_STABILITY_DATA")
    return Path(named) if named else platformdirs.user_cache_path("nas-stability")


def load(name: str, root: Path | None = None, split_rule: str = "first_second") -> Dataset:
    """Return a dataset by name.

    Args:
        name: "cifar10", "cifar100", "imagenet16" (ImageNet16-120) or "digits".
        root: folder of downloaded data, by default `data_root()`; the digits need none.
        split_rule: how images are divided (see `splits`); the digits have halves of their own.
    """
    if name == "digits":
        return digits.load()
    if name not in OFFICIAL:
        raise ValueError(f"expected a dataset out of {[*OFFICIAL, 'digits']}, got {name!r}")
    return OFFICIAL[name].load(root or data_root(), split_rule)
