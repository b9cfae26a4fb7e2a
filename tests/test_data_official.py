"""CIFAR-100 and ImageNet16-120: small datasets in the official layouts, and how NAS-Bench-201 divides their images."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import official

from bench import data
from bench.data import Dataset, cifar100, imagenet16, splits, subset

TRAIN, TEST = 200, 400
PER_BATCH = 36


@pytest.fixture
def hundred(tmp_path: Path) -> Callable[..., Dataset]:
    sums = official.write_cifar100(tmp_path, TRAIN, TEST)
    official.write_split(tmp_path, cifar100.SPLIT.name, {"xvalid": range(1, TEST, 2), "xtest": range(0, TEST, 2)})
    return lambda rule: cifar100.load(tmp_path, rule, sums)


@pytest.fixture
def small_imagenet(tmp_path: Path) -> Callable[..., Dataset]:
    """360 training images, 240 of classes that are kept; 480 test images, likewise 240."""
    sums = official.write_imagenet16(tmp_path, PER_BATCH, 480)
    official.write_split(tmp_path, imagenet16.SPLIT.name, {"xvalid": range(120, 240), "xtest": range(120)})
    return lambda rule: imagenet16.load(tmp_path, rule, sums)


def test_cifar100_trains_on_all_training_images_and_lends_half_of_the_test_images(
    hundred: Callable[..., Dataset],
) -> None:
    dataset = hundred("nb201")
    train, test = (official.pixels(name, n).reshape(n, 3, 32, 32) for name, n in (("train", TRAIN), ("test", TEST)))
    assert dataset.search.images[dataset.train_indices].numpy().tolist() == train.tolist()
    assert dataset.search.images[dataset.val_indices].numpy().tolist() == test[1::2].tolist()
    assert dataset.test is not None
    assert dataset.test.images.numpy().tolist() == test[0::2].tolist()
    assert dataset.search.labels[dataset.train_indices].tolist() == [i % 100 for i in range(TRAIN)]
    assert dataset.search.labels[dataset.val_indices].tolist() == [i % 100 for i in range(1, TEST, 2)]
    assert dataset.test.labels.tolist() == [i % 100 for i in range(0, TEST, 2)]
    assert (dataset.name, dataset.classes, dataset.flip) == ("cifar100", 100, True)


def test_cifar100_is_halved_like_cifar10_in_the_other_spaces(hundred: Callable[..., Dataset]) -> None:
    dataset = hundred("first_second")
    assert dataset.train_indices.tolist() == list(range(TRAIN // 2))
    assert dataset.val_indices.tolist() == list(range(TRAIN // 2, TRAIN))
    assert dataset.test is not None
    assert len(dataset.test.labels) == TEST


def test_imagenet16_keeps_the_first_120_of_the_classes_counted_from_1(
    small_imagenet: Callable[..., Dataset],
) -> None:
    dataset = small_imagenet("nb201")
    labels = [i % 240 for i in range(10 * PER_BATCH)]
    names = [name for name in imagenet16.TRAINING_FILES for _ in range(PER_BATCH)]
    kept = [i for i, label in enumerate(labels) if label < 120]
    assert dataset.search.labels[dataset.train_indices].tolist() == [labels[i] for i in kept]
    last = official.pixels(names[kept[-1]], PER_BATCH, 16)[kept[-1] % PER_BATCH]
    assert dataset.search.images[dataset.train_indices[-1]].flatten().tolist() == last.tolist()
    assert dataset.search.images.shape == (240 + 120, 3, 16, 16)


def test_imagenet16_s_division_counts_the_kept_test_images(small_imagenet: Callable[..., Dataset]) -> None:
    """The published positions are those after the choice of classes: 6,000 of the 50,000."""
    dataset, test = small_imagenet("nb201"), official.pixels("val_data", 480, 16)
    kept = [i for i in range(480) if i % 240 < 120]
    assert dataset.search.images[dataset.val_indices[0]].flatten().tolist() == test[kept[120]].tolist()
    assert dataset.test is not None
    assert dataset.test.images[5].flatten().tolist() == test[kept[5]].tolist()
    assert (dataset.name, dataset.classes, len(dataset.test.labels)) == ("imagenet16", 120, 120)


def test_moments_are_those_of_the_benchmark(
    hundred: Callable[..., Dataset], small_imagenet: Callable[..., Dataset]
) -> None:
    assert hundred("nb201").mean == pytest.approx((0.50706, 0.48667, 0.44078), abs=1e-5)
    assert hundred("nb201").std == pytest.approx((0.26745, 0.25647, 0.27608), abs=1e-5)
    assert small_imagenet("nb201").mean == pytest.approx((0.48110, 0.45749, 0.40788), abs=1e-5)
    assert small_imagenet("nb201").std == pytest.approx((0.24792, 0.24024, 0.25525), abs=1e-5)


def test_every_image_is_in_one_part_only(hundred: Callable[..., Dataset]) -> None:
    dataset = hundred("nb201")
    assert dataset.test is not None
    parts = [dataset.search.images[dataset.train_indices], dataset.search.images[dataset.val_indices]]
    everything = torch.cat([*parts, dataset.test.images]).flatten(1)
    assert len(everything.unique(dim=0)) == len(everything) == TRAIN + TEST


def test_a_subset_of_unequal_halves_is_equal_until_the_smaller_is_used_up(hundred: Callable[..., Dataset]) -> None:
    dataset = hundred("nb201")  # 200 and 200
    smaller = data.Dataset(**{**vars(dataset), "val_indices": dataset.val_indices[:120]})
    lengths = {s: (len(subset(smaller, s).train_indices), len(subset(smaller, s).val_indices)) for s in (210, 240, 301)}
    assert lengths == {210: (105, 105), 240: (120, 120), 301: (181, 120)}
    swapped = data.Dataset(
        **{**vars(smaller), "train_indices": smaller.val_indices, "val_indices": smaller.train_indices}
    )
    assert (len(subset(swapped, 301).train_indices), len(subset(swapped, 301).val_indices)) == (120, 181)
    for size in (211, 321, 198):
        with pytest.raises(ValueError, match=rf"even train_size from 200 .* to 320 .*, got {size}"):
            subset(smaller, size)


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"", "JSONDecodeError"),
        (b"[1, 2]", "TypeError"),
        (b'{"xvalid": ["int", ["0"]]}', "KeyError"),
        (b'{"xvalid": ["int", ["0", "a"]], "xtest": ["int", ["1", "2"]]}', "ValueError"),
        (b'{"xvalid": ["int", ["99999999999999999999"]], "xtest": ["int", ["1"]]}', ""),
        (b"\xff\xfe\x00", "UnicodeDecodeError"),
    ],
    ids=["empty", "no object", "half missing", "no number", "huge", "no text"],
)
def test_a_file_that_is_no_division_is_refused(raw: bytes, found: str) -> None:
    with pytest.raises(ValueError, match=rf'expected "xvalid".* and "xtest".* in here, got something else: {found}'):
        splits.parse(raw, cifar100.SPLIT, 4, "here")


def test_absent_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"CIFAR-100's batches in .*cifar-100-python.*bench\.prepare cifar100"):
        data.load("cifar100", tmp_path, "nb201")
    with pytest.raises(FileNotFoundError, match=r"ImageNet16's batches in .*ImageNet16.*bench\.prepare imagenet16"):
        data.load("imagenet16", tmp_path, "nb201")
    sums = official.write_cifar100(tmp_path, TRAIN, TEST)
    with pytest.raises(FileNotFoundError, match=r"cifar100-test-split\.txt.*bench\.prepare cifar100-split"):
        cifar100.load(tmp_path, "nb201", sums)


def test_files_that_are_not_the_published_ones_are_refused(tmp_path: Path) -> None:
    official.write_cifar100(tmp_path, TRAIN, TEST)
    with pytest.raises(ValueError, match=f"expected md5 {cifar100.MD5['meta']} for .*meta, got"):
        cifar100.load(tmp_path, "nb201")
    official.write_imagenet16(tmp_path, PER_BATCH, 480)
    with pytest.raises(
        ValueError, match=r"expected md5 27846dcaa50de8e21a7d1a35f30f0e91 for .*train_data_batch_1, got"
    ):
        imagenet16.load(tmp_path, "nb201")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": np.zeros((2, 768), np.uint8), "labels": [0, 1]}, "labels from 1 to 1000 .*, got 0 to 1"),
        ({"data": np.zeros((2, 768), np.uint8), "labels": [1, 1001]}, "labels from 1 to 1000 .*, got 1 to 1001"),
        ({"data": np.zeros((2, 768), np.uint8), "labels": [1.0, 2.5]}, "labels from 1 to 1000"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1, 2]}, r"2 uint8 images of 768 .* shape \(2, 3072\)"),
        ({"data": np.zeros((2, 768), np.uint8)}, "keys data and labels in .*, got data"),
        ([1, 2], "a dictionary in .*, got list"),
    ],
    ids=["zero", "beyond", "fractions", "pixels", "no labels", "no dictionary"],
)
def test_batches_of_another_kind_are_refused(tmp_path: Path, content: object, message: str) -> None:
    sums = official.write_imagenet16(tmp_path, PER_BATCH, 480)
    sums["val_data"] = official.write(tmp_path, imagenet16.BATCHES.folder, "val_data", pickle.dumps(content))
    with pytest.raises(ValueError, match=message):
        imagenet16.load(tmp_path, "first_second", sums)


def test_an_unknown_division_names_what_exists(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'first_second', 'nb201'.*got 'thirds'"):
        data.load("imagenet16", tmp_path, "thirds")
