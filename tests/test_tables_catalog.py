"""Where tables are found, and the command line."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bench.spaces
from bench.spaces import spelling
from bench.spaces.graph101 import graph_hash
from bench.tables import Measurement, Slot, Table, TableData, catalog, write
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
    assert "val           0.500000  runs  7: 0.500000\n" in capsys.readouterr().out
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
        (["import", "folder", "--space", "toy"], "the folder folder has none of the forms of docs/tables.md"),
        (
            ["import", "empty.csv", "--space", "toy"],
            "empty.csv is neither parquet nor CSV that can be read: it is empty",
        ),
        (["info", "mine.csv"], "not a benchmark table: it is no Arrow file; python -m bench.tables import"),
        (["query", "absent.arrow", "a"], "expected the file of a table, or a space out of s1, "),
        (["query", "toy.arrow", "a", "--budget", "7"], "no budget 7 for toy; it has [2, 10]"),
        (["query", "toy.arrow", "a", "--dataset", "cifar10"], "no dataset 'cifar10'; it has toy"),
        (["export", "toy.arrow", "toy.txt"], "export writes .parquet, .csv or .jsonl, got 'toy.txt'"),
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
    Path("folder").mkdir()
    Path("empty.csv").touch()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


NB201 = "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"


@pytest.fixture
def table_201(tmp_path: Path) -> Path:
    """One cell, two runs of which one was not made, and an epoch on the way."""
    single = Measurement(np.array([[0.5, np.nan]]), ("777", "888"))
    means = Measurement(np.array([[0.25]]), ("mean",), np.array([3]))
    measured = {Slot("cifar10", what, 200): single for what in ("val", "test")}
    measured |= {Slot("cifar10", what, 200, 100): means for what in ("val", "test")}
    one = np.ones(1, dtype=np.int64)
    write(tmp_path / "tables" / "nb201.arrow", TableData("nb201", (NB201,), ("",), one, measured))
    return tmp_path / "tables" / "nb201.arrow"


def test_a_cell_can_be_asked_for_in_every_way(
    table_201: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NAS_STABILITY_DATA", str(table_201.parent.parent))
    table, turned = str(table_201), NB201.replace("|nor_conv_3x3~0|skip_connect~1|", "|skip_connect~1|nor_conv_3x3~0|")
    cells = ([NB201], ["--hash", NB201], ["--cell", turned])
    ways = [[*found, *cell] for found in ([table], ["--space", "nb201"]) for cell in cells]
    shown = []
    for way in ways:
        assert main(["query", *way]) == 0
        shown.append(capsys.readouterr().out)
    assert len(set(shown)) == 1
    for line in (
        f"table         {table}",
        f"key           {NB201}",
        "dataset       cifar10, the end of 200 epochs",
        "val           0.500000  runs  777: 0.500000  888: none",
        "n_runs        1",
    ):
        assert f"{line}\n" in shown[0]
    assert "cell  " not in shown[0]


def test_info_finds_the_table_of_a_space(
    table_201: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NAS_STABILITY_DATA", str(table_201.parent.parent))
    shown = []
    for words in ([str(table_201)], ["nb201"], ["nb201", "--dataset", "cifar10"]):
        assert main(["info", *words]) == 0
        shown.append(capsys.readouterr().out)
    assert len(set(shown)) == 1
    assert shown[0].startswith(f"table    {table_201}\nspace    nb201\n")


def test_a_reader_that_has_seen_enough_is_no_mistake(table_201: Path) -> None:
    asked = [sys.executable, "-m", "bench.tables", "info", str(table_201)]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as told:
        assert told.stdout is not None
        assert told.stderr is not None
        told.stdout.close()
        assert told.stderr.read() == b""
    assert told.returncode == 141


def test_every_command_on_a_table_takes_the_name_of_a_space(
    table_201: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NAS_STABILITY_DATA", str(table_201.parent.parent))
    out = str(table_201.parent / "out.csv")
    for command, words, more in (
        ("query", ["TABLE", NB201], ["--dataset", "cifar10"]),
        ("verify", ["TABLE", "TABLE"], []),
        ("verify", ["TABLE", str(table_201)], ["--dataset", "cifar10"]),
        ("relate", ["TABLE", "TABLE"], ["--dataset", "cifar10", "--other-dataset", "cifar10"]),
        ("export", ["TABLE", out], ["--dataset", "cifar10"]),
    ):
        shown = []
        for table in (str(table_201), "nb201"):
            assert main([command, *(table if word == "TABLE" else word for word in words), *more]) == 0
            shown.append(capsys.readouterr().out)
        assert shown[0] == shown[1] != ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nb20"], "expected the file of a table, or a space out of s1, s2, s3, nb201, toy, found no file nb20"),
        (["nb201", "--dataset", "svhn"], "expected a table of nb201 on svhn in "),
    ],
)
def test_info_says_what_to_give(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(["info", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_epoch_on_the_way_only_by_name(table_201: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", str(table_201), NB201, "--epoch", "100"]) == 0
    shown = capsys.readouterr().out
    assert "dataset       cifar10, epoch 100 of 200 epochs\n" in shown
    assert "val           0.250000  mean of 3 runs, which the table does not have\n" in shown
    assert main(["query", str(table_201), NB201, "--epoch", "12"]) == 2
    assert "has no epoch 12 of 200 for cifar10; it has the end and [100]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{table}"], "expected a key, --hash or --cell, one of them, and before it a table or --space"),
        (["a", "b", "c"], "expected a key, --hash or --cell, one of them"),
        (["{table}", "a", "--hash", "a"], "expected a key, --hash or --cell, one of them"),
        (["--hash", "a", "--cell", "b"], "expected a key, --hash or --cell, one of them"),
        (["--hash", "a"], "expected one table, or --space to find it, got neither"),
        (["--space", "s2", "--hash", "a", "--dataset", "svhn"], "expected a table of s2 on svhn in "),
        (["{table}", "--cell", "a", "b"], "expected one string |op~0|+|op~0|op~1|+|op~0|op~1|op~2|, got 2 words"),
        (["{table}", "--cell", "a"], "expected '|op~0|+|op~0|op~1|+|op~0|op~1|op~2|' with ops of"),
    ],
)
def test_a_query_that_asks_for_nothing_or_too_much(
    table_201: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["query", *(word.format(table=table_201) for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_cells_of_nasbench101_are_spelt_in_several_ways() -> None:
    names = "input,conv3x3-bn-relu,maxpool3x3,output"
    matrix = [[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    ways = [
        ("0110000100010000", names),
        ("0110/0001/0001/0000", "conv3x3,maxpool3x3"),
        (str(matrix), "input,conv3x3,maxpool3x3,output"),
    ]
    expected = graph_hash(matrix, [-1, 0, 2, -2])
    assert {spelling.key("s1", way) for way in ways} == {expected}
    turned = ("0110/0001/0001/0000", "maxpool3x3,conv3x3")
    assert spelling.key("nb101", turned) == expected


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (["01/00"], "expected a matrix and operations, as in 010/001/000 conv3x3, got 1 words"),
        (["01/10", ""], "expected an upper triangular matrix of 0 and 1 like 010/001/000, got '01/10'"),
        (["012/001/000", "conv3x3"], "got '012/001/000'"),
        (["0100", "conv3x3"], "expected 0 operations out of conv3x3, conv1x1 and maxpool3x3, got 'conv3x3'"),
        (["010/001/000", "conv5x5"], "expected 1 operations out of .* got 'conv5x5'"),
        (["010/001/000", "output,conv3x3,input"], "expected 1 operations out of .* got 'output,conv3x3,input'"),
        (["010/000/000", "conv3x3"], "expected a cell whose output is connected to its input"),
    ],
)
def test_a_cell_that_is_none_is_refused(cell: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spelling.key("s1", cell)


def test_an_unknown_space_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.csv").write_text(CSV, encoding="utf-8")
    assert main(["import", str(tmp_path / "mine.csv"), "--space", "s9"]) == 2
    assert "'s9'" in capsys.readouterr().err


def test_a_missing_subcommand_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "command" in capsys.readouterr().err
