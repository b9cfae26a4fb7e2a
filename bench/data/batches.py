"""Images in pickled batch files, as the authors of CIFAR and of the downsampled ImageNet published them.

A file's bytes are checked against the published md5 before they are unpickled through an allow-list.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import pickles
from bench.data.types import ImageSet
from bench.pickles import Limits


@dataclass(frozen=True)
class Batches:
    """A folder of batch files.

    Attributes:
        title: the dataset's name in messages.
        folder: below the folder of downloaded data.
        md5: file name to published checksum.
        labels: key of the labels.
        side: height and width in pixels.
        first_label: number of the first class.
        advice: how to get the files, as a clause.
    """

    title: str
    folder: str
    md5: Mapping[str, str]
    labels: str
    side: int
    advice: str
    first_label: int = 0


def read(batches: Batches, root: Path, name: str) -> dict[str, Any]:
    """Return a batch file's dictionary.

    Raises:
        FileNotFoundError: the folder or the file is not there.
        ValueError: the file is not the published one, or holds something else than arrays.
    """
    folder = root / batches.folder
    if not folder.is_dir():
        raise FileNotFoundError(
            f"expected {batches.title}'s batches in {folder}, found no such folder: {batches.advice} into the folder "
            "named by NAS_STABILITY_DATA"
        )
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"expected the file {path}, found none: {batches.advice}")
    raw = path.read_bytes()
    digest = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if digest != batches.md5[name]:
        raise ValueError(
            f"expected md5 {batches.md5[name]} for {path}, got {digest}: the file is damaged, {batches.advice} again"
        )
    content = pickles.read(io.BytesIO(raw), str(path), pickles.ARRAYS, limits=_limits(raw))
    if not isinstance(content, dict):
        raise ValueError(f"expected a dictionary in {path}, got {type(content).__name__}")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in content.items()}


def _limits(raw: bytes) -> Limits:
    """Let a checked file hold what its size says, also where its bytes are spelled as text (protocol 2)."""
    room = 4 * len(raw) + 4096
    return Limits(nbytes=room, operations=room, text_bytes=room)


def images(batches: Batches, root: Path, name: str, classes: int, kept: int | None = None) -> ImageSet:
    """Return the images and labels of one batch file, in its order.

    Args:
        batches: the folder it is in.
        root: folder of downloaded data.
        name: the file.
        classes: classes in the file.
        kept: how many of them, from the first on, are kept; None: all.
    """
    content, place = read(batches, root, name), root / batches.folder / name
    absent = [key for key in ("data", batches.labels) if key not in content]
    if absent:
        raise ValueError(f"expected the keys data and {batches.labels} in {place}, got {', '.join(sorted(content))}")
    data, labels = content["data"], np.asarray(content[batches.labels])
    pixels = 3 * batches.side**2
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape != (len(labels), pixels):
        raise ValueError(
            f"expected {len(labels)} uint8 images of {pixels} values (one a label) in {place}, "
            f"got {getattr(data, 'dtype', type(data).__name__)} of shape {np.shape(data)}"
        )
    first, last = batches.first_label, batches.first_label + classes - 1
    if labels.dtype.kind not in "iu" or labels.min() < first or labels.max() > last:
        raise ValueError(f"expected labels from {first} to {last} in {place}, got {labels.min()} to {labels.max()}")
    numbers = labels.astype(np.int64) - first
    chosen = numbers < (classes if kept is None else kept)
    pictures = data[chosen].reshape(-1, 3, batches.side, batches.side)
    return ImageSet(torch.from_numpy(pictures), torch.from_numpy(numbers[chosen]))


def join(sets: list[ImageSet]) -> ImageSet:
    """Return the images of several sets, one after the other."""
    return ImageSet(torch.cat([part.images for part in sets]), torch.cat([part.labels for part in sets]))


def checksum(path: Path, algorithm: str) -> str:
    """Return the hexadecimal digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
