"""CIFAR-10: a small dataset in the official layout, hostile files, and the real one where it is present."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import official
from tests.official import Checksums

from bench.data import cifar10, data_root

PER_BATCH = 4

needs_cifar10 = pytest.mark.skipif(
    not (data_root() / cifar10.BATCHES.folder).is_dir(), reason="CIFAR-10 is not in NAS_STABILITY_DATA"
)
needs_split = pytest.mark.skipif(
    not (data_root() / cifar10.SPLIT.name).is_file(), reason="the NAS-Bench-201 split is not in NAS_STABILITY_DATA"
)


def write(root: Path, name: str, raw: bytes) -> str:
    return official.write(root, cifar10.BATCHES.folder, name, raw)


def images_of(batch: int) -> np.ndarray:
    return official.pixels(official.CIFAR10_FILES[batch], PER_BATCH)


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Checksums]:
    """Write five batches and a test batch of four images each, with labels batch, batch+1, …"""
    return tmp_path, official.write_cifar10(tmp_path, PER_BATCH)


def write_split(root: Path, train: list[int], valid: list[int]) -> None:
    official.write_split(root, cifar10.SPLIT.name, {"train": train, "valid": valid})


def test_batches_are_read_in_order_as_red_green_blue_planes(small: tuple[Path, Checksums]) -> None:
    dataset = cifar10.load(small[0], "first_second", small[1])
    assert dataset.search.images.shape == (20, 3, 32, 32)
    assert dataset.search.labels[:6].tolist() == [0, 1, 2, 3, 1, 2]
    assert dataset.search.images[5, 2, 3, 7].item() == images_of(1)[1, 2 * 1024 + 3 * 32 + 7]
    assert dataset.test is not None
    assert dataset.test.images[1].flatten().tolist() == images_of(5)[1].tolist()
    assert dataset.test.labels.tolist() == [5, 6, 7, 8]
    assert (dataset.classes, dataset.flip, dataset.table_val) == (10, True, None)


def test_first_second_split_cuts_in_the_middle(small: tuple[Path, Checksums]) -> None:
    dataset = cifar10.load(small[0], "first_second", small[1])
    assert dataset.train_indices.tolist() == list(range(10))
    assert dataset.val_indices.tolist() == list(range(10, 20))


def test_nb201_split_is_read_from_its_file(small: tuple[Path, Checksums]) -> None:
    write_split(small[0], list(range(18, -1, -2)), list(range(1, 20, 2)))
    dataset = cifar10.load(small[0], "nb201", small[1])
    assert dataset.train_indices.tolist() == list(range(0, 20, 2))
    assert dataset.val_indices.tolist() == list(range(1, 20, 2))


@pytest.mark.parametrize(
    ("train", "valid"),
    [
        (list(range(10)), list(range(9, 19))),
        (list(range(9)), list(range(9, 20))),
        (list(range(10)), [*range(10, 19), 20]),
        (list(range(9)), list(range(9, 18))),
    ],
    ids=["overlap", "unequal", "out of range", "incomplete"],
)
def test_nb201_split_that_is_not_two_halves_is_refused(
    small: tuple[Path, Checksums], train: list[int], valid: list[int]
) -> None:
    write_split(small[0], train, valid)
    with pytest.raises(ValueError, match="split 20 images into two disjoint halves"):
        cifar10.load(small[0], "nb201", small[1])


def test_absent_split_file_says_where_to_get_it(small: tuple[Path, Checksums]) -> None:
    with pytest.raises(FileNotFoundError, match=r"nasbench201-cifar-split\.txt.*bench\.prepare cifar10-split"):
        cifar10.load(small[0], "nb201", small[1])


def test_unknown_split_rule_names_what_exists(small: tuple[Path, Checksums]) -> None:
    with pytest.raises(ValueError, match=r"'first_second', 'nb201'.*got 'thirds'"):
        cifar10.load(small[0], "thirds", small[1])


def test_absent_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cifar-10-batches-py.*cifar-10-python\.tar\.gz.*NAS_STABILITY_DATA"):
        cifar10.load(tmp_path, "first_second")


def test_absent_file_is_named(small: tuple[Path, Checksums]) -> None:
    (small[0] / cifar10.BATCHES.folder / "data_batch_3").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"the file .*data_batch_3, found none: run python -m bench.prepare cifar10"
    ):
        cifar10.load(small[0], "first_second", small[1])


def test_damaged_file_is_refused_before_it_is_unpickled(small: tuple[Path, Checksums]) -> None:
    write(small[0], "data_batch_2", b"not a pickle")
    with pytest.raises(ValueError, match=f"expected md5 {small[1]['data_batch_2']} for .*data_batch_2"):
        cifar10.load(small[0], "first_second", small[1])


def test_pickle_that_calls_the_shell_is_refused(small: tuple[Path, Checksums], tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {marker}",)

    digest = write(small[0], "data_batch_1", pickle.dumps(Payload()))
    with pytest.raises(
        ValueError, match=rf"data_batch_1, .* names {os.system.__module__}\.system, which is not plain data"
    ):
        cifar10.load(small[0], "first_second", small[1] | {"data_batch_1": digest})
    assert not marker.exists()


@pytest.mark.parametrize(
    ("data", "labels", "message"),
    [
        (np.zeros((4, 3071), np.uint8), [0, 1, 2, 3], r"4 uint8 images of 3072 .*uint8 of shape \(4, 3071\)"),
        (np.zeros((4, 3072), np.uint8), [0, 1, 2], r"3 uint8 images of 3072 .*uint8 of shape \(4, 3072\)"),
        (np.zeros((4, 3072), np.int8), [0, 1, 2, 3], r"4 uint8 images of 3072 .*int8 of shape \(4, 3072\)"),
        (np.zeros((4, 3072), np.uint8), [0, 1, 2, 10], "labels from 0 to 9 .*got 0 to 10"),
    ],
    ids=["pixels", "one label missing", "type", "label"],
)
def test_batch_of_wrong_shape_is_refused(
    small: tuple[Path, Checksums], data: np.ndarray, labels: list[int], message: str
) -> None:
    digest = write(small[0], "data_batch_4", official.python2({"labels": labels, "data": data}))
    with pytest.raises(ValueError, match=message):
        cifar10.load(small[0], "first_second", small[1] | {"data_batch_4": digest})


@needs_cifar10
def test_real_cifar10_has_the_published_moments_and_counts() -> None:
    dataset = cifar10.load(data_root(), "first_second")
    assert dataset.search.labels.bincount().tolist() == [5000] * 10
    assert dataset.test is not None
    assert dataset.test.labels.bincount().tolist() == [1000] * 10
    pixels = dataset.search.images[:, 0].double() / 255
    assert pixels.mean().item() == pytest.approx(dataset.mean[0], abs=1e-4)
    assert pixels.std().item() == pytest.approx(dataset.std[0], abs=1e-4)
    assert dataset.search.labels[:3].tolist() == [6, 9, 9]


@needs_cifar10
@needs_split
def test_real_nb201_split_is_two_halves() -> None:
    dataset = cifar10.load(data_root(), "nb201")
    assert dataset.train_indices[:3].tolist() == [0, 5, 7]
    both = torch.cat([dataset.train_indices, dataset.val_indices])
    assert len(dataset.train_indices) == len(dataset.val_indices) == len(both.unique()) // 2 == 25000
