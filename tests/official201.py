"""Files in the layouts that NAS-Bench-201 and NATS-Bench were published in, with numbers of our own."""

import bz2
import io
import itertools
import pickle
import tarfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
CELLS = [
    "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|".format(*picks) for picks in itertools.product(OPERATIONS, repeat=6)
]  # our own order
SETS = {
    "cifar10-valid": {"train": 25_000, "x-valid": 25_000, "ori-test": 10_000},
    "cifar10": {"train": 50_000, "ori-test": 10_000},
    "cifar100": {"train": 50_000, "ori-test": 10_000, "x-valid": 5_000, "x-test": 5_000},
    "ImageNet16-120": {"train": 151_700, "ori-test": 6_000, "x-valid": 3_000, "x-test": 3_000},
}
SEEDS = {12: {"cifar10-valid": (111, 777), "cifar10": (111,), "cifar100": (111,), "ImageNet16-120": (111,)}}
SEEDS[200] = dict.fromkeys(SETS, (777, 888, 999))
BRIEF = {12: {"cifar10": (111,), "cifar10-valid": (777, 111)}, 200: {"cifar10": (888,), "cifar10-valid": (888,)}}
Seeds = Mapping[int, Mapping[str, Sequence[int]]]


def right(index: int, dataset: str, images: str, seed: int, epochs: int) -> int:
    """How many images the fictitious network gets right after its last epoch: another number for each argument."""
    total = SETS[dataset][images]
    salt = index * 7919 + list(SETS).index(dataset) * 131 + len(images) * 17 + seed * 13 + epochs
    return total // 3 + salt % (total // 3)


def result(index: int, dataset: str, seed: int, epochs: int) -> dict[str, Any]:
    """One training as the files have it; the curves rise to the last epoch, with the noise of float32 in them."""

    def curve(images: str) -> list[float]:
        last = 100 * right(index, dataset, images, seed, epochs) / SETS[dataset][images] + 1e-8
        return [last * (epoch + 1) / epochs for epoch in range(epochs)]

    evaluated = [images for images in SETS[dataset] if images != "train"]
    points = {f"{images}@{epoch}": value for images in evaluated for epoch, value in enumerate(curve(images))}
    return {
        "name": dataset,
        "train_acc1es": dict(enumerate(curve("train"))),
        "train_acc5es": None,
        "train_losses": {epoch: 1 / (1 + epoch) for epoch in range(epochs)},
        "train_times": OrderedDict((epoch, 2.5 + index) for epoch in range(epochs)),
        "arch_config": {"channel": 16, "num_cells": 5, "arch_str": CELLS[index], "class_num": 10},
        "params": np.float64(0.1 + index / 1e6),
        "flop": 15.5 + index,
        "seed": f"{seed:04d}",
        "epochs": epochs,
        "latency": [np.float64(0.0139)],
        "eval_names": evaluated,
        "eval_acc1es": points,
        "eval_times": dict.fromkeys(points, 0.5),
        "eval_losses": {name: 1 - value / 100 for name, value in points.items()},
        "net_state_dict": None,
    }


def architecture(index: int, names: Mapping[str, int], seeds: Seeds | None = None) -> OrderedDict[str, Any]:
    """One architecture; `names` are those of the training lengths, `{"12": 12, "200": 200}` or less and full."""
    found: OrderedDict[str, Any] = OrderedDict()
    for name, epochs in names.items():
        trainings = [(dataset, seed) for dataset, of in (seeds or SEEDS)[epochs].items() for seed in of]
        found[name] = {
            "arch_index": index,
            "arch_str": CELLS[index],
            "all_results": {one: result(index, *one, epochs) for one in trainings},
            "dataset_seed": {dataset: list(of) for dataset, of in (seeds or SEEDS)[epochs].items()},
            "clear_net_done": True,
        }
    return found


NATS = {"12": 12, "200": 200}
NB201 = {"less": 12, "full": 200}


def whole(indices: Sequence[int], names: Mapping[str, int], seeds: Seeds | None = None) -> dict[str, Any]:
    """The content of a single file."""
    return {
        "meta_archs": CELLS,
        "total_archs": len(CELLS),
        "arch2infos": {index: architecture(index, names, seeds) for index in indices},
        "evaluated_indexes": set(indices),
    }


def unlisted(indices: Sequence[int], names: Mapping[str, int], seeds: Seeds | None = None) -> dict[str, Any]:
    """The same without the list of all cells, which takes longest to read."""
    return {"arch2infos": {index: architecture(index, names, seeds) for index in indices}}


def compressed(content: object, protocol: int = 4) -> bytes:
    return bz2.compress(pickle.dumps(content, protocol), 1)


def members(indices: Sequence[int]) -> dict[str, bytes]:
    """The files of the folder."""
    meta = {"meta_archs": CELLS, "total_archs": len(CELLS), "arch2infos": None, "evaluated_indexes": set()}
    found = {"meta.pickle.pbz2": compressed(meta)}
    return found | {f"{index:06d}.pickle.pbz2": compressed(architecture(index, NATS)) for index in indices}


def write_folder(path: Path, indices: Sequence[int]) -> Path:
    path.mkdir()
    for name, content in members(indices).items():
        (path / name).write_bytes(content)
    return path


def write_tar(path: Path, found: Mapping[str, bytes], folder: str = "NATS-tss-v1_0-3ffb9-simple") -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in found.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_torch(path: Path, content: object, now: bool) -> Path:
    """As torch writes it now, or as it did when the benchmark was published."""
    import torch

    torch.save(content, path, _use_new_zipfile_serialization=now)
    return path
