"""The real files of `NAS_STABILITY_DATA`, every row of them."""

import os
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import bench.spaces
from bench.tables import Table, TableEntry, load, write
from bench.tables.forms import import_table, sha256

ROOT = Path(os.environ.get("NAS_STABILITY_DATA", "/nonexistent"))
FILE_201, FILE_101 = ROOT / "nasbench201.parquet", ROOT / "nasbench101_slice.parquet"
needs_201 = pytest.mark.skipif(not FILE_201.is_file(), reason="no nasbench201.parquet in NAS_STABILITY_DATA")
needs_101 = pytest.mark.skipif(not FILE_101.is_file(), reason="no nasbench101_slice.parquet in NAS_STABILITY_DATA")

STEMS = {
    "cifar10": ("c10v_valid", "c10_test", "c10v_train_time_s", "c10_flops_M"),
    "cifar100": ("c100_valid", "c100_test", "c100_train_time_s", "c100_flops_M"),
    "imagenet16": ("in16_valid", "in16_test", "in16_train_time_s", "in16_flops_M"),
}
DATASETS = ["cifar10", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cifar100", "imagenet16"))]
SEEDS = ("777", "888", "999")


@cache
def rows(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


@cache
def counts(space_name: str) -> dict[str, int]:
    return bench.spaces.get(space_name).multiplicities()


def imported(path: Path, space_name: str, folder: Path) -> Path:
    table = folder / f"{space_name}.arrow"
    if not table.is_file():
        write(table, import_table(path, space_name, counts(space_name), sum(counts(space_name).values())))
    return table


@cache
def entries_201(path: Path, dataset: str, budget: int | None) -> list[TableEntry]:
    """The entry of every row of the file; all must be there."""
    table = Table.open(path, dataset, budget)
    found = [table.query(row["arch_str"]) for row in rows(FILE_201)]
    assert None not in found
    return found


def column(path: Path, name: str) -> np.ndarray:
    """A column as the file has it, missing values as NaN."""
    return np.array([row[name] for row in rows(path)], dtype=float)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


@pytest.fixture
def table_201(folder: Path) -> Path:
    return imported(FILE_201, "nb201", folder)


@needs_201
@pytest.mark.parametrize("dataset", DATASETS)
def test_every_row_of_nasbench201_agrees_with_the_means_of_the_file(table_201: Path, dataset: str) -> None:
    found = entries_201(table_201, dataset, None)
    val, test, time, flops = (column(FILE_201, name) for name in STEMS[dataset])
    assert len(found) == 15625
    np.testing.assert_allclose([entry.val_mean for entry in found], val / 100, rtol=0, atol=1e-8)
    np.testing.assert_allclose([entry.test_mean for entry in found], test / 100, rtol=0, atol=1e-8)
    np.testing.assert_array_equal([entry.n_runs for entry in found], column(FILE_201, "n_runs"))
    np.testing.assert_array_equal([entry.train_time_s for entry in found], time)
    np.testing.assert_allclose([entry.flops for entry in found], flops * 1e6, rtol=1e-12)
    assert {entry.budget for entry in found} == {200}


@needs_201
def test_every_row_of_nasbench201_has_the_runs_of_the_file(table_201: Path) -> None:
    found = entries_201(table_201, "cifar10", None)
    for stem, runs in (("c10v_valid", [e.val for e in found]), ("c10_test", [e.test for e in found])):
        expected = np.stack([column(FILE_201, f"{stem}_s{seed}") for seed in SEEDS], axis=1) / 100
        padded = [[*row, *[np.nan] * (3 - len(row))] for row in runs]
        np.testing.assert_allclose(padded, expected, rtol=0, atol=5e-8)
    np.testing.assert_array_equal([e.params for e in found], np.round(column(FILE_201, "c10_params_M") * 1e6))


@needs_201
@pytest.mark.parametrize("dataset", DATASETS)
def test_twelve_epochs_only_by_name(table_201: Path, dataset: str) -> None:
    found = entries_201(table_201, dataset, 12)
    val, test, *_ = STEMS[dataset]
    np.testing.assert_array_equal([e.val for e in found], column(FILE_201, f"{val}_ep12")[:, None] / 100)
    np.testing.assert_array_equal([e.test for e in found], column(FILE_201, f"{test}_ep12")[:, None] / 100)
    assert {(e.budget, e.n_runs, e.train_time_s) for e in found} == {(12, 1, None)}


@needs_201
def test_published_figures_of_nasbench201(table_201: Path) -> None:
    names = {row["arch_index"]: row["arch_str"] for row in rows(FILE_201)}
    cifar10, cifar100, imagenet16 = (Table.open(table_201, dataset).reference() for dataset in STEMS)
    assert (cifar10.rows, cifar10.coverage) == (15625, 1.0)
    assert (round(cifar10.optimum_test, 6), round(cifar10.optimum_val, 6)) == (0.943733, 0.916067)
    assert cifar10.optimum_val_keys == (names[6111],)
    assert names[6111] in cifar10.optimum_test_keys
    assert (round(cifar100.optimum_val, 6), round(cifar100.optimum_test, 6)) == (0.734933, 0.735133)
    assert cifar100.optimum_val_keys == cifar100.optimum_test_keys == (names[9930],)
    assert (round(imagenet16.optimum_test, 6), imagenet16.optimum_test_keys) == (0.473111, (names[857],))
    query = Table.open(table_201, "cifar10").query
    skip, convolution = query(names[1835]), query(names[1462])
    assert skip is not None
    assert convolution is not None
    assert (round(skip.test_mean, 4), round(convolution.test_mean, 4)) == (0.5430, 0.9376)


@needs_201
def test_a_key_that_differs_in_one_character_is_a_miss(table_201: Path) -> None:
    table = Table.open(table_201, "cifar10")
    keys = {row["arch_str"] for row in rows(FILE_201)}
    for place in range(len(key := rows(FILE_201)[6111]["arch_str"])):
        changed = key[:place] + ("1" if key[place] != "1" else "3") + key[place + 1 :]
        assert (table.query(changed) is not None) == (changed in keys)
    assert table.query(key + " ") is None


@needs_101
@pytest.mark.parametrize(
    ("space", "val", "test"),
    [("s1", 0.05282, 0.05799), pytest.param("s2", 0.05482, 0.06093, marks=pytest.mark.slow)],
)
def test_every_row_of_the_nasbench101_slice_agrees(folder: Path, space: str, val: float, test: float) -> None:
    table = Table.open(imported(FILE_101, space, folder), "cifar10")
    reference = table.reference()
    found = {row["hash"]: table.query(row["hash"]) for row in rows(FILE_101)}
    assert {key for key, entry in found.items() if entry} == found.keys() & counts(space).keys()
    for row in rows(FILE_101):
        if (entry := found[row["hash"]]) is not None:
            assert entry.val == tuple(row[f"val_{run}"] for run in range(3))
            assert entry.test == tuple(row[f"test_{run}"] for run in range(3))
            assert (entry.params, entry.n_runs, entry.budget) == (row["params"], 3, 108)
    assert reference.rows == {"s1": 2127, "s2": 3258}[space]
    assert (round(1 - reference.optimum_val, 5), round(1 - reference.optimum_test, 5)) == (val, test)


@needs_101
def test_coverage_counts_raw_encodings(folder: Path) -> None:
    path, size = imported(FILE_101, "s1", folder), bench.spaces.get("s1").size()
    data = load(path)
    assert data.multiplicities.tolist() == [counts("s1")[key] for key in data.keys]
    expected = sum(counts("s1").get(row["hash"], 0) for row in rows(FILE_101)) / size
    assert Table.open(path, "cifar10").reference().coverage == expected
    assert 0.8 < expected < 1


@needs_101
def test_cells_are_readable_and_the_source_is_recorded(folder: Path) -> None:
    data = load(imported(FILE_101, "s1", folder))
    row = next(row for row in rows(FILE_101) if row["hash"] == data.keys[0])
    names = [("conv3x3", "conv1x1", "maxpool3x3")[int(digit)] for digit in row["ops"]]
    operations, _, edges = data.cells[0].partition("; ")
    assert operations.split(",") == names
    bits = sum(1 << (j * (j - 1) // 2 + i) for i, j in (map(int, edge.split("-")) for edge in edges.split()))
    assert bits == row["adj_bits"]
    assert data.source_sha256 == sha256(FILE_101)


@needs_201
@needs_101
def test_a_file_of_another_space_is_refused() -> None:
    with pytest.raises(ValueError, match=r"nasbench201\.parquet is a table of space 'nb201', not of 's1'"):
        import_table(FILE_201, "s1", {}, None)
    with pytest.raises(ValueError, match=r"none of the 5385 cells of nasbench101_slice\.parquet belong to s1"):
        import_table(FILE_101, "s1", {"0" * 32: 1}, None)
