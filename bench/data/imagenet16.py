"""ImageNet16-120: the first 120 classes of ImageNet at 16×16 pixels, from the official batch files.

Sources: Chrabaszcz, Loshchilov, Hutter (2017), A Downsampled Variant of ImageNet as an Alternative to the CIFAR
datasets, https://arxiv.org/abs/1707.08819; the choice of classes is NAS-Bench-201's (Dong and Yang 2020,
https://arxiv.org/abs/2001.00326, section 2.2). The md5s are those that NAS-Bench-201's reader checks.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bench.data import batches, splits
from bench.data.types import Dataset

CLASSES, KEPT = 1000, 120
MEAN = (122.68 / 255, 116.66 / 255, 104.01 / 255)
STD = (63.22 / 255, 61.26 / 255, 65.09 / 255)

TRAINING_FILES = tuple(f"train_data_batch_{i}" for i in range(1, 11))
TEST_FILE = "val_data"
MD5: Mapping[str, str] = {
    "train_data_batch_1": "27846dcaa50de8e21a7d1a35f30f0e91",
    "train_data_batch_2": "c7254a054e0e795c69120a5727050e3f",
    "train_data_batch_3": "4333d3df2e5ffb114b05d2ffc19b1e87",
    "train_data_batch_4": "1620cdf193304f4a92677b695d70d10f",
    "train_data_batch_5": "348b3c2fdbb3940c4e9e834affd3b18d",
    "train_data_batch_6": "6e765307c242a1b3d7d5ef9139b48945",
    "train_data_batch_7": "564926d8cbf8fc4818ba23d2faac7564",
    "train_data_batch_8": "f4755871f718ccb653440b9dd0ebac66",
    "train_data_batch_9": "bb6dd660c38c58552125b1a92f86b5d4",
    "train_data_batch_10": "8f03f34ac4b42271a294f91bf480f29b",
    "val_data": "3410e3017fdaefba8d5073aaa65e4bd6",
}
BATCHES = batches.Batches(
    title="ImageNet16",
    folder="ImageNet16",
    md5=MD5,
    labels="labels",
    side=16,
    first_label=1,
    advice="get the batch files as python -m bench.prepare imagenet16 says",
)
SPLIT = splits.SplitFile("imagenet-16-120-test-split.txt", ("xvalid", "xtest"), "imagenet16-split")


def load(root: Path, split_rule: str, checksums: Mapping[str, str] = MD5) -> Dataset:
    """Return ImageNet16-120, normalised as in NAS-Bench-201.

    Args:
        root: the folder that holds `ImageNet16` and, for "nb201", the split file.
        split_rule: "first_second" (halves of the 151,700 training images, all 6,000 test images held out) or "nb201"
            (all training images for weights, 3,000 test images for choices, 3,000 held out), see `splits`.
        checksums: file name to md5.
    """
    splits.check_rule(split_rule, BATCHES.title)
    source = replace(BATCHES, md5=checksums)
    train = batches.join([batches.images(source, root, name, CLASSES, KEPT) for name in TRAINING_FILES])
    test = batches.images(source, root, TEST_FILE, CLASSES, KEPT)
    pool = splits.of_rule(split_rule, SPLIT, root, train, test)
    halves = pool.train_indices, pool.val_indices
    return Dataset("imagenet16", pool.search, *halves, None, pool.held_out, KEPT, MEAN, STD, flip=True)
