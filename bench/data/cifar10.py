"""CIFAR-10 from the official python batches.

Source: Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images,
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bench.data import batches, splits
from bench.data.types import Dataset

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)

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
BATCHES = batches.Batches(
    title="CIFAR-10",
    folder="cifar-10-batches-py",
    md5=MD5,
    labels="labels",
    side=32,
    advice="run python -m bench.prepare cifar10 or unpack cifar-10-python.tar.gz of "
    "https://www.cs.toronto.edu/~kriz/cifar.html",
)
SPLIT = splits.SplitFile("nasbench201-cifar-split.txt", ("train", "valid"), "cifar10-split")


def load(root: Path, split_rule: str, checksums: Mapping[str, str] = MD5) -> Dataset:
    """Return CIFAR-10 with its 50,000 training images split in halves.

    Args:
        root: the folder that holds `cifar-10-batches-py` and, for "nb201", the split file.
        split_rule: "first_second" (first and last 25,000 images) or "nb201" (NAS-Bench-201's), see `splits`.
        checksums: file name to md5.
    """
    splits.check_rule(split_rule, BATCHES.title)
    source = replace(BATCHES, md5=checksums)
    classes = len(batches.read(source, root, "batches.meta")["label_names"])
    train = batches.join([batches.images(source, root, name, classes) for name in TRAINING_FILES])
    images = len(train.labels)
    halves = splits.read(SPLIT, root, images) if split_rule == "nb201" else splits.first_second(images)
    held_out = batches.images(source, root, "test_batch", classes)
    return Dataset("cifar10", train, *halves, None, held_out, classes, MEAN, STD, flip=True)
