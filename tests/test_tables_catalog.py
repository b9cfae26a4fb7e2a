"""Where tables are found, and the command line."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bench.spaces
from bench.tables import Table, catalog, write
from bench.tables.__main__ import main
from bench.tables.forms import import_table

CSV = "key,toy/val/10/7,toy/test/10/7,toy/val/2/7,toy/test/2/7\na,0.5,0.25,0.125,0.0625\nb,0.75,0.5,0,0\n"


class FakeSpace:
    name = "toy"

    def multiplicities(self) -> dict[str, int]:
        return {"a": 3, "b": 1, "c": 6}

    def size(self) -> int:
        return 10


@pytest.fixture
def csv_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bench.spaces, "get", lambda name: FakeSpace())
    (tmp_path / "mine.csv").write_text(CSV, encoding="utf-8")
    return tmp_path / "mine.csv"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """An empty root, an empty cache, and no embedded tables."""
    monkeypatch.setattr(catalog, "EMBEDDED", tmp_path / "embedded")
    (tmp_path / "root").mkdir()
    return tmp_path / "root", tmp_path / "cache"


@pytest.fixture
def counting() -> tuple[Callable[[], dict[str, int]], list[int]]:
    calls: list[int] = []

    def space_keys() -> dict[str, int]:
        calls.append(1)
        return FakeSpace().multiplicities()

    return space_keys, calls


def slice_101(path: Path, accuracy: float) -> None:
    columns = {name: pa.array([accuracy]) for name in ("val_0", "val_1", "val_2", "test_0", "test_1", "test_2")}
    columns |= {"hash": pa.array(["a"]), "adj_bits": pa.array([1]), "ops": pa.array(["01211"]), "params": pa.array([9])}
    pq.write_table(pa.table(columns), path)


def test_nothing_is_found_where_nothing_is(places, counting) -> None:
    assert catalog.find("s1", "cifar10", *places, counting[0]) is None
    assert catalog.find("s1", "cifar10", places[0] / "absent", places[1], counting[0]) is None
    assert not counting[1]


def test_tables_are_looked_for_in_order(places, counting, csv_file: Path) -> None:
    root, cache = places
    data = import_table(csv_file, "toy", {}, None)
    order = [
        root / "toy.arrow",
        root / "toy-toy.arrow",
        root / "tables" / "toy-toy.arrow",
        cache / "tables" / "toy-toy.arrow",
    ]
    for path in order:
        write(path, data)
        assert catalog.find("toy", "toy", root, cache, counting[0]) == path
    assert not counting[1]


def test_a_table_of_several_datasets_is_found_for_those_only(places, counting, csv_file: Path) -> None:
    root, cache = places
    write(root / "toy.arrow", import_table(csv_file, "toy", {}, None))
    assert catalog.find("toy", "cifar10", root, cache, counting[0]) is None


def test_a_known_file_is_imported_once_and_again_when_it_changes(places, counting) -> None:
    root, cache = places
    space_keys, calls = counting
    slice_101(root / "nasbench101_slice.parquet", 0.5)
    first = catalog.find("s1", "cifar10", root, cache, space_keys)
    assert first is not None
    assert first.parent == cache / "tables"
    entry = Table.open(first, "cifar10").query("a")
    assert entry is not None
    assert (entry.val_mean, entry.budget) == (0.5, 108)
    assert Table.open(first, "cifar10").reference().coverage == 0.3
    assert catalog.find("s1", "cifar10", root, cache, space_keys) == first
    assert len(calls) == 1
    slice_101(root / "nasbench101_slice.parquet", 0.75)
    second = catalog.find("s1", "cifar10", root, cache, space_keys)
    assert second not in {None, first}
    assert len(calls) == 2


@pytest.mark.parametrize(("space", "dataset"), [("s1", "cifar100"), ("nb201", "cifar10"), ("toy", "cifar10")])
def test_a_known_file_is_of_its_spaces_and_datasets_only(places, counting, space: str, dataset: str) -> None:
    slice_101(places[0] / "nasbench101_slice.parquet", 0.5)
    assert catalog.find(space, dataset, *places, counting[0]) is None


def test_the_table_of_the_package_comes_last(places, counting, csv_file: Path) -> None:
    root, cache = places
    write(root.parent / "t.arrow", import_table(csv_file, "toy", {}, None))
    catalog.EMBEDDED.mkdir()
    assert main(["export", str(root.parent / "t.arrow"), str(catalog.EMBEDDED / "toy-toy.parquet")]) == 0
    found = catalog.find("toy", "toy", root, cache, counting[0])
    assert found is not None
    assert found.parent == cache / "tables"
    assert Table.open(found, "toy").query("b") is not None
    write(root / "toy-toy.arrow", import_table(csv_file, "toy", {}, None))
    assert catalog.find("toy", "toy", root, cache, counting[0]) == root / "toy-toy.arrow"


def test_the_commands_from_import_to_export(csv_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = csv_file.with_suffix(".arrow"), csv_file.with_name("out.csv")
    assert main(["import", str(csv_file), "--space", "toy", "--out", str(table)]) == 0
    assert capsys.readouterr().out == f"2 cells of toy in {table}\n"
    assert main(["info", str(table)]) == 0
    shown = capsys.readouterr().out
    assert "toy, 10 epochs: 2 cells, 40.00% of the encodings" in shown
    assert "best val     0.750000  b" in shown
    assert "random cell  0.562500 val, 0.312500 test" in shown
    assert main(["query", str(table), "a"]) == 0
    assert "val           0.500000  stored: 0.500000" in capsys.readouterr().out
    assert main(["query", str(table), "a", "--dataset", "toy", "--budget", "2"]) == 0
    assert "val           0.125000" in capsys.readouterr().out
    assert main(["export", str(table), str(out)]) == 0
    assert out.read_text(encoding="utf-8").startswith('"key","cell","multiplicity"')


def test_import_goes_where_the_catalog_looks(csv_file: Path, monkeypatch: pytest.MonkeyPatch, places) -> None:
    monkeypatch.setattr("bench.tables.commands.imports.default_cache", lambda: places[1])
    assert main(["import", str(csv_file), "--space", "toy"]) == 0
    assert catalog.find("toy", "toy", *places, dict) == places[1] / "tables" / "toy.arrow"


def test_a_miss_is_exit_code_1(csv_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = csv_file.with_suffix(".arrow")
    main(["import", str(csv_file), "--space", "toy", "--out", str(table)])
    capsys.readouterr()
    assert main(["query", str(table), "c"]) == 1
    assert capsys.readouterr().out == f"{table} has no cell 'c' (toy, 10 epochs)\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "mine.csv"], "mine.csv does not say which space it is of; name it with --space"),
        (["import", "absent.csv", "--space", "toy"], "there is no file at absent.csv"),
        (["info", "mine.csv"], "mine.csv is damaged or not a benchmark table"),
        (["query", "absent.arrow", "a"], "there is no table at absent.arrow"),
        (["query", "toy.arrow", "a", "--budget", "7"], "no budget 7 for toy; it has [2, 10]"),
        (["query", "toy.arrow", "a", "--dataset", "cifar10"], "no dataset 'cifar10'; it has toy"),
        (["export", "toy.arrow", "toy.txt"], "export writes .parquet or .csv, got 'toy.txt'"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    csv_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(csv_file.parent)
    write(Path("toy.arrow"), import_table(csv_file, "toy", {}, None))
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_an_unknown_space_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.csv").write_text(CSV, encoding="utf-8")
    assert main(["import", str(tmp_path / "mine.csv"), "--space", "s9"]) == 2
    assert "'s9'" in capsys.readouterr().err


def test_a_missing_subcommand_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "command" in capsys.readouterr().err
