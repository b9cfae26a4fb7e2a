"""CIFAR-100 from the official python files, with its 100 fine classes.

Source: Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images,
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bench.data import batches, splits
from bench.data.types import Dataset

MEAN = (129.3 / 255, 124.1 / 255, 112.4 / 255)
STD = (68.2 / 255, 65.4 / 255, 70.4 / 255)

MD5: Mapping[str, str] = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
BATCHES = batches.Batches(
    title="CIFAR-100",
    folder="cifar-100-python",
    md5=MD5,
    labels="fine_labels",
    side=32,
    advice="run python -m bench.prepare cifar100 or unpack cifar-100-python.tar.gz of "
    "https://www.cs.toronto.edu/~kriz/cifar.html",
)
SPLIT = splits.SplitFile("cifar100-test-split.txt", ("xvalid", "xtest"), "cifar100-split")


def load(root: Path, split_rule: str, checksums: Mapping[str, str] = MD5) -> Dataset:
    """Return CIFAR-100, normalised as in NAS-Bench-201.

    Args:
        root: the folder that holds `cifar-100-python` and, for "nb201", the split file.
        split_rule: "first_second" (halves of the 50,000 training images, all 10,000 test images held out) or "nb201"
            (all training images for weights, 5,000 test images for choices, 5,000 held out), see `splits`.
        checksums: file name to md5.
    """
    splits.check_rule(split_rule, BATCHES.title)
    source = replace(BATCHES, md5=checksums)
    classes = len(batches.read(source, root, "meta")["fine_label_names"])
    train, test = (batches.images(source, root, name, classes) for name in ("train", "test"))
    pool = splits.of_rule(split_rule, SPLIT, root, train, test)
    halves = pool.train_indices, pool.val_indices
    return Dataset("cifar100", pool.search, *halves, None, pool.held_out, classes, MEAN, STD, flip=True)
