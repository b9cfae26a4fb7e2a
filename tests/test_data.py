"""Datasets by name, where they are looked for, and class-balanced subsets."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench import data
from bench.data import Dataset, ImageSet, subset
from bench.data.types import balanced


def make_dataset(labels: list[int], train: list[int], val: list[int], classes: int = 2) -> Dataset:
    pool = ImageSet(torch.zeros(len(labels), 3, 2, 2, dtype=torch.uint8), torch.tensor(labels))
    moments = (0.5, 0.5, 0.5)
    return Dataset(
        "made", pool, torch.tensor(train), torch.tensor(val), None, None, classes, moments, moments, flip=False
    )


def test_data_is_looked_for_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NAS_STABILITY_DATA", str(tmp_path))
    assert data.data_root() == tmp_path


def test_data_is_looked_for_in_the_cache_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NAS_STABILITY_DATA", raising=False)
    assert data.data_root().name == "nas-stability"


def test_absent_cifar10_is_looked_for_below_the_data_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NAS_STABILITY_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        data.load("cifar10")


def test_digits_are_loaded_by_name() -> None:
    assert data.load("digits").name == "digits"


def test_unknown_dataset_names_what_exists() -> None:
    with pytest.raises(ValueError, match=r"'cifar10', 'cifar100', 'imagenet16', 'digits'.*got 'mnist'"):
        data.load("mnist")


def test_subset_keeps_the_first_of_each_class_in_each_half() -> None:
    dataset = make_dataset([0, 0, 0, 1, 1, 0, 1, 1, 1, 0], train=[0, 1, 2, 3, 4], val=[9, 8, 7, 6, 5])
    kept = subset(dataset, 4)
    assert kept.train_indices.tolist() == [0, 3]
    assert kept.val_indices.tolist() == [9, 8]
    assert kept.search is dataset.search


def test_subset_of_full_size_is_the_dataset() -> None:
    dataset = make_dataset([0, 1] * 5, train=[0, 3, 5, 6, 9], val=[1, 2, 4, 7, 8])
    kept = subset(dataset, 10)
    assert torch.equal(kept.train_indices, dataset.train_indices)
    assert torch.equal(kept.val_indices, dataset.val_indices)


@pytest.mark.parametrize("train_size", [12, 7, 2, 0, -4])
def test_subset_of_impossible_size_is_refused(train_size: int) -> None:
    dataset = make_dataset([0, 1] * 5, train=[0, 1, 2, 3, 4], val=[5, 6, 7, 8, 9])
    with pytest.raises(ValueError, match=rf"even train_size from 4 .* to 10 .*got {train_size}$"):
        subset(dataset, train_size)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.data())
def test_balanced_choice_takes_from_the_fullest_classes_only(labels: list[int], drawn: st.DataObject) -> None:
    size = drawn.draw(st.integers(1, len(labels)))
    kept = balanced(torch.tensor(labels), size, 4)
    counts = torch.tensor(labels)[kept].bincount(minlength=4)
    left = torch.tensor(labels).bincount(minlength=4) - counts
    assert len(set(kept.tolist())) == size
    assert kept.tolist() == sorted(kept.tolist())
    assert all(counts[k] >= counts.max() - 1 for k in range(4) if left[k] > 0)
