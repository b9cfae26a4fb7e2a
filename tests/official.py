"""Small datasets in the layouts of the official files, with images and labels of our own making."""

import functools
import hashlib
import json
import pickle
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import data
from bench.data import cifar10, cifar100, imagenet16

Checksums = dict[str, str]

CIFAR10_FILES = (*cifar10.TRAINING_FILES, "test_batch")


def python2(fields: Mapping[str, list[int] | np.ndarray]) -> bytes:
    """Serialise a dictionary as Python 2 did the CIFAR files: protocol 2, byte strings, integer flags in the dtype."""
    items = b"".join(_text(key) + (_list(v) if isinstance(v, list) else _array(v)) for key, v in fields.items())
    return b"\x80\x02}(" + items + b"u."


def _text(text: str) -> bytes:
    return b"U" + bytes([len(text)]) + text.encode()


def _list(labels: list[int]) -> bytes:
    return b"](" + b"".join(b"M" + struct.pack("<H", label) for label in labels) + b"e"


def _array(values: np.ndarray) -> bytes:
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02" + values.dtype.str[1:].encode() + b"K\x00K\x01\x87R"
    flags = b"(K\x03U\x01" + values.dtype.byteorder.encode() + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"(K\x01M" + struct.pack("<H", values.shape[0]) + b"M" + struct.pack("<H", values.shape[1]) + b"\x86"
    return array + shape + dtype + flags + b"\x89T" + struct.pack("<I", values.nbytes) + values.tobytes() + b"tb"


def pixels(name: str, images: int, side: int = 32) -> np.ndarray:
    """Noise, another one for every file."""
    draw = np.random.default_rng(list(name.encode()))
    return draw.integers(0, 256, (images, 3 * side**2), dtype=np.uint8)


def write(root: Path, folder: str, name: str, raw: bytes) -> str:
    """Write a file; its md5."""
    path = root / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return hashlib.md5(raw).hexdigest()


def write_cifar10(root: Path, per_batch: int) -> Checksums:
    """Five batches and a test batch, with labels batch, batch+1, …"""
    folder, sums = cifar10.BATCHES.folder, {}
    for i, name in enumerate(CIFAR10_FILES):
        labels = [(i + j) % 10 for j in range(per_batch)]
        sums[name] = write(root, folder, name, python2({"labels": labels, "data": pixels(name, per_batch)}))
    meta = {b"label_names": [b"name"] * 10, b"num_vis": 3072}
    return sums | {"batches.meta": write(root, folder, "batches.meta", pickle.dumps(meta, protocol=3))}


def write_cifar100(root: Path, train: int, test: int) -> Checksums:
    """Labels 0, 1, …, 99, 0, … in both files; coarse labels that are others."""
    folder, sums = cifar100.BATCHES.folder, {}
    for name, images in (("train", train), ("test", test)):
        fine, coarse = [i % 100 for i in range(images)], [(7 * i + 3) % 20 for i in range(images)]
        fields = {"coarse_labels": coarse, "fine_labels": fine, "data": pixels(name, images)}
        sums[name] = write(root, folder, name, python2(fields))
    meta = {b"fine_label_names": [b"name"] * 100, b"coarse_label_names": [b"name"] * 20}
    return sums | {"meta": write(root, folder, "meta", pickle.dumps(meta, protocol=3))}


def write_imagenet16(root: Path, per_batch: int, test: int) -> Checksums:
    """Labels 1, 2, … 240, 1, … going on from batch to batch: every other 120 images belong to ImageNet16-120."""
    folder, sums, start = imagenet16.BATCHES.folder, {}, 0
    for name in (*imagenet16.TRAINING_FILES, imagenet16.TEST_FILE):
        first, images = (0, test) if name == imagenet16.TEST_FILE else (start, per_batch)
        labels = [(first + i) % 240 + 1 for i in range(images)]
        start += images
        content = {"data": pixels(name, images, 16), "labels": labels, "mean": pixels("mean", 1, 16)[0] / 2}
        sums[name] = write(root, folder, name, pickle.dumps(content, protocol=2))
    return sums


def write_split(root: Path, file: str, halves: Mapping[str, Sequence[int]]) -> None:
    typed = {name: ["int", [str(index) for index in indices]] for name, indices in halves.items()}
    (root / file).write_text(json.dumps(typed), encoding="utf-8")


def expect(monkeypatch: pytest.MonkeyPatch, name: str, sums: Checksums) -> None:
    """Have a dataset's small files taken for the official ones."""
    known = data.OFFICIAL[name]
    load = functools.partial(known.load, checksums=sums)
    changed = data.Official(load, replace(known.batches, md5=sums), known.split)
    monkeypatch.setattr(data, "OFFICIAL", {**data.OFFICIAL, name: changed})
