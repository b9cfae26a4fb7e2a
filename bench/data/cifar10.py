"""CIFAR-10 from the official python batches, unpickled as plain data and checked against published checksums.

Source: Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images,
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from bench import pickles
from bench.data.types import Dataset, ImageSet

FOLDER = "cifar-10-batches-py"
SPLIT_FILE = "nasbench201-cifar-split.txt"
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
PIXELS = 3 * 32 * 32

TRAINING_FILES = tuple(f"data_batch_{i}" for i in range(1, 6))
MD5: Mapping[str, str] = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}

Halves = tuple[Int64[Tensor, " train"], Int64[Tensor, " val"]]


def load(root: Path, split_rule: str, checksums: Mapping[str, str] = MD5) -> Dataset:
    """Return CIFAR-10 with its 50,000 training images split in halves.

    Args:
        root: the folder that holds `cifar-10-batches-py` and, for "nb201", the split file.
        split_rule: "first_second" (first and last 25,000 images, as NAS-Bench-1Shot1) or "nb201" (NAS-Bench-201's).
        checksums: file name to md5.
    """
    if split_rule not in SPLIT_RULES:
        raise ValueError(f"expected a CIFAR-10 split rule out of {sorted(SPLIT_RULES)}, got {split_rule!r}")
    folder = root / FOLDER
    if not folder.is_dir():
        raise FileNotFoundError(
            f"expected CIFAR-10's python batches in {folder}, found no such folder: get cifar-10-python.tar.gz from "
            "https://www.cs.toronto.edu/~kriz/cifar.html and unpack it into the folder named by NAS_STABILITY_DATA"
        )
    classes = len(_read(folder / "batches.meta", checksums)[b"label_names"])
    search = _join([_image_set(folder / name, checksums, classes) for name in TRAINING_FILES])
    train, val = SPLIT_RULES[split_rule](root, len(search.labels))
    held_out = _image_set(folder / "test_batch", checksums, classes)
    return Dataset("cifar10", search, train, val, None, held_out, classes, MEAN, STD, flip=True)


def _first_second(_root: Path, images: int) -> Halves:
    order = torch.arange(images)
    return order[: images // 2], order[images // 2 :]


def _nb201(root: Path, images: int) -> Halves:
    """Return the halves of the NAS-Bench-201 split file: JSON, each half a list behind the name of its type."""
    path = root / SPLIT_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"expected the NAS-Bench-201 split in {path}, found no such file: copy "
            "configs/nas-benchmark/cifar-split.txt of github.com/D-X-Y/AutoDL-Projects there under that name"
        )
    typed = json.loads(path.read_text(encoding="utf-8"))
    train, val = (torch.tensor(sorted(int(index) for index in typed[name][1])) for name in ("train", "valid"))
    both = torch.cat([train, val]).sort().values
    if len(train) != len(val) or not torch.equal(both, torch.arange(images)):
        raise ValueError(
            f"expected {path} to split {images} images into two disjoint halves, got {len(train)} and {len(val)} "
            f"indices, {len(both.unique())} of them distinct"
        )
    return train, val


SPLIT_RULES: Mapping[str, Callable[[Path, int], Halves]] = {"first_second": _first_second, "nb201": _nb201}


def _image_set(path: Path, checksums: Mapping[str, str], classes: int) -> ImageSet:
    """Return the images and labels of one batch file."""
    content = _read(path, checksums)
    data, labels = content[b"data"], np.asarray(content[b"labels"])
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape != (len(labels), PIXELS):
        raise ValueError(
            f"expected {len(labels)} uint8 images of {PIXELS} values (one a label) in {path}, "
            f"got {getattr(data, 'dtype', type(data).__name__)} of shape {np.shape(data)}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"expected labels from 0 to {classes - 1} in {path}, got {labels.min()} to {labels.max()}")
    return ImageSet(torch.tensor(data.reshape(-1, 3, 32, 32)), torch.tensor(labels, dtype=torch.int64))


def _join(sets: list[ImageSet]) -> ImageSet:
    return ImageSet(torch.cat([part.images for part in sets]), torch.cat([part.labels for part in sets]))


def _read(path: Path, checksums: Mapping[str, str]) -> dict[bytes, Any]:
    """Return a batch file's dictionary; its bytes are checked before they are unpickled."""
    if not path.is_file():
        raise FileNotFoundError(f"expected the file {path}, found none: unpack cifar-10-python.tar.gz again")
    raw = path.read_bytes()
    digest = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if digest != checksums[path.name]:
        raise ValueError(
            f"expected md5 {checksums[path.name]} for {path}, got {digest}: the file is damaged, get it again"
        )
    return pickles.read(io.BytesIO(raw), str(path), pickles.ARRAYS)
