"""Data: images and labels with two fixed disjoint halves, augmentation on the device, and the feed of a search."""

import os
from pathlib import Path

import platformdirs

from bench.data import cifar10, digits
from bench.data.types import Dataset, ImageSet, subset

__all__ = ["Dataset", "ImageSet", "data_root", "load", "subset"]


def data_root() -> Path:
    """Return the folder of downloaded data: `NAS_STABILITY_DATA`, by default the user's cache folder."""
    named = os.environ.get("NAS_STABILITY_DATA")
    return Path(named) if named else platformdirs.user_cache_path("nas-stability")


def load(name: str, root: Path | None = None, split_rule: str = "first_second") -> Dataset:
    """Return a dataset by name.

    Args:
        name: "cifar10" or "digits".
        root: folder of downloaded data, by default `data_root()`; the digits need none.
        split_rule: how CIFAR-10 is halved (see `cifar10.load`); the digits have halves of their own.
    """
    if name == "cifar10":
        return cifar10.load(root or data_root(), split_rule)
    if name == "digits":
        return digits.load()
    raise ValueError(f"expected a dataset out of ['cifar10', 'digits'], got {name!r}")
