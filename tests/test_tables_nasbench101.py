"""NAS-Bench-101's .tfrecord: what is read is what was written, and a damaged file is one clear sentence."""

import os
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import bench.spaces
from bench import choice
from bench.spaces import spelling
from bench.spaces.graph101 import LABELS, graph_hash, prune
from bench.tables import Slot, Table, TableData, catalog, cells101, load, nasbench101, sample101, tfrecord, write
from bench.tables.__main__ import main
from bench.tables.forms import import_table, sha256, space_of
from bench.tables.metrics101 import Evaluation
from bench.tables.record101 import Training
from bench.tables.sample101 import Cell, hashed_cells, record, trainings, unhashed_cells, write_sample
from bench.tables.tfrecord import frame

pytest.importorskip("google_crc32c", reason="needs the extra [tfrecord]")

BUDGETS = (4, 12, 36, 108)
RUNS = 3


def nothing(_done: int, _total: int) -> None:
    pass


def read(path: Path) -> TableData:
    return nasbench101.read(path, nothing)


@cache
def content(cells: int = 4, budgets: tuple[int, ...] = (4, 108)) -> tuple[bytes, ...]:
    """The records of a small file."""
    drawn = trainings(budgets)
    return tuple(
        frame(record(cell, training)) for cell in hashed_cells(cells) for training in islice(drawn, len(budgets) * RUNS)
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nasbench.tfrecord"


def test_all_that_a_training_says_is_in_the_table(path: Path) -> None:
    cells = hashed_cells(6)
    write_sample(path, cells, BUDGETS)
    table = path.with_suffix(".arrow")
    write(table, import_table(path, "nb101", {}, None))
    data, drawn = load(table), trainings(BUDGETS)
    for cell in cells:
        row = data.keys.index(cell.key)
        for budget in BUDGETS:
            runs = list(islice(drawn, RUNS))
            assert data.scalars["params"][row] == runs[0].params
            for place, epoch in ((1, budget // 2), (2, None)):
                seconds = data.measurements[Slot("cifar10", "train_time_s", budget, epoch)].values[row]
                assert seconds.tolist() == [float(run.seconds[place]) for run in runs]
                for split, what in enumerate(("train", "val", "test")):
                    measurement = data.measurements[Slot("cifar10", what, budget, epoch)]
                    assert measurement.runs == ("0", "1", "2")
                    expected = [round(float(run.accuracies[place, split]) * 9984) / 9984 for run in runs]
                    assert measurement.values[row].tolist() == expected
    assert len(data.measurements) == 4 * 2 * 4
    assert (data.space, data.source, data.source_sha256) == ("nb101", "NAS-Bench-101", sha256(path))


def test_values_of_the_published_example(path: Path) -> None:
    """One training as the authors' documentation prints it; the table has counts of 9,984 images."""
    matrix = np.zeros((7, 7), dtype=int)
    for pair in ((0, 1), (0, 4), (0, 5), (1, 2), (2, 3), (2, 6), (3, 5), (4, 5), (5, 6)):
        matrix[pair] = 1
    names = "input,conv3x3-bn-relu,maxpool3x3,conv3x3-bn-relu,conv3x3-bn-relu,conv1x1-bn-relu,output"
    key = graph_hash(matrix.tolist(), [LABELS[name] for name in names.split(",")])
    cell = Cell(key, "".join(map(str, matrix.ravel())), names)
    accuracies = np.array(
        [
            [0.1, 0.1, 0.1],
            [0.8282251358032227, 0.7776442170143127, 0.7740384340286255],
            [1.0, 0.9241786599159241, 0.9211738705635071],
        ]
    )
    training = sample101.Training(108, accuracies, np.array([0.0, 883.4580078125, 1769.1279296875]), 8555530)
    path.write_bytes(frame(record(cell, training)))
    data = read(path)
    write(path.with_suffix(".arrow"), data)
    entry = Table.open(path.with_suffix(".arrow"), "cifar10").query(key)
    assert entry is not None
    assert (entry.val, entry.test, entry.n_runs) == ((9227 / 9984,), (9197 / 9984,), 1)
    assert (entry.budget, entry.params, entry.train_time_s) == (108, 8555530, 1769.1279296875)
    half = data.measurements[Slot("cifar10", "val", 108, 54)].values[0]
    np.testing.assert_array_equal(half, [7764 / 9984, np.nan, np.nan])
    assert data.cells[0].startswith("conv3x3,maxpool3x3,conv3x3,conv3x3,conv1x1; 0-1 1-2 2-3 0-4 0-5")


def test_halfway_values_are_no_budget_and_no_query_returns_them(path: Path) -> None:
    write_sample(path, hashed_cells(3), (108,))
    table = path.with_suffix(".arrow")
    write(table, read(path))
    with pytest.raises(ValueError, match=r"no budget 54 for cifar10; it has \[108\]"):
        Table.open(table, "cifar10", 54)
    data = load(table)
    halfway, end = (data.measurements[Slot("cifar10", "test", 108, epoch)].values for epoch in (54, None))
    assert not np.isin(halfway, end).any()
    for row, key in enumerate(data.keys):
        entry = Table.open(table, "cifar10").query(key)
        assert entry is not None
        assert entry.test == tuple(end[row])


def test_runs_keep_the_order_of_the_file_wherever_they_stand(path: Path) -> None:
    whole = content()
    path.write_bytes(b"".join(whole))
    ordered = read(path)
    shuffled = [whole[i] for i in np.argsort([i % 3 for i in range(len(whole))], kind="stable")]
    path.write_bytes(b"".join(shuffled))
    other = read(path)
    assert ordered.keys == other.keys
    for slot in ordered.measurements:
        np.testing.assert_array_equal(ordered.measurements[slot].values, other.measurements[slot].values)


def test_the_official_api_and_ours_agree_on_the_order_of_evaluations(path: Path) -> None:
    """The first of three is before training; nothing of it is in the table."""
    training = next(trainings((36,)))
    marked = training._replace(accuracies=np.array([[0.25] * 3, [0.5] * 3, [0.75] * 3]))
    path.write_bytes(frame(record(hashed_cells(1)[0], marked)))
    found = read(path).measurements
    first = {slot.epoch: float(found[slot].values[0, 0]) for slot in found if slot.what == "val"}
    assert first == {18: 0.5, None: 0.75}


def test_shortfalls_are_named(path: Path) -> None:
    path.write_bytes(b"".join(content()[:-4]))
    assert read(path).provenance[1:] == (
        "expected 423,624 cells, got 4",
        "expected 3 trainings of every cell at 4 epochs, got 1 with 2",
        "expected 3 trainings of every cell at 108 epochs, got 1 with 0",
    )


def test_the_published_sha256_is_recognised(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"".join(content()))
    digest = sha256(path)
    assert read(path).provenance[0] == (
        f"the sha256, {digest[:8]}…, is not published: expected 4c39c393… of nasbench_only108.tfrecord or "
        "3d64db81… of nasbench_full.tfrecord"
    )
    monkeypatch.setitem(nasbench101.PUBLISHED, digest, "nasbench_only108.tfrecord")
    assert read(path).provenance[0] == "the sha256 is that of the published nasbench_only108.tfrecord"


def test_other_numbers_than_multiples_are_kept_as_float32(path: Path) -> None:
    accuracies = np.full((3, 3), 1 / 7)
    training = next(trainings((4,)))._replace(accuracies=accuracies)
    path.write_bytes(frame(record(hashed_cells(1)[0], training)))
    data = read(path)
    assert data.measurements[Slot("cifar10", "val", 4)].values[0, 0] == float(np.float32(1 / 7))
    assert "6 numbers were rounded to float32; those of the published files are float32" in data.provenance


def test_the_sample_has_the_size_of_the_published_file(path: Path) -> None:
    """522,767,376 bytes for 1,270,872 records, some of cells of fewer vertices; ours all have seven."""
    write_sample(path, unhashed_cells(50), (108,))
    assert 0.97 < 522_767_376 / 1_270_872 / (path.stat().st_size / 150) < 1


class FakeSpace:
    """Two cells of which the file has one."""

    name = "s1"

    def multiplicities(self) -> dict[str, int]:
        return {hashed_cells(3)[1].key: 5, "0" * 32: 7}

    def size(self) -> int:
        return 12


def test_a_space_takes_its_rows_from_the_file_or_from_the_whole_table(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.spaces, "get", lambda name: FakeSpace())
    write_sample(path, hashed_cells(3), (108,))
    whole, part, again = (path.with_name(f"{name}.arrow") for name in ("nb101", "s1", "again"))
    assert space_of(path) == "nb101"
    assert main(["import", str(path), "--out", str(whole)]) == 0
    assert capsys.readouterr().out.startswith(f"3 cells of nb101 in {whole}\nnote: the sha256, ")
    for source, out in ((path, part), (whole, again)):
        assert main(["import", str(source), "--space", "s1", "--out", str(out)]) == 0
        assert capsys.readouterr().out.startswith(f"1 cells of s1 in {out}\nnote: ")
    found = load(part)
    assert (found.keys, found.multiplicities.tolist()) == ((hashed_cells(3)[1].key,), [5])
    assert Table.open(part, "cifar10").reference().coverage == 5 / 12
    assert again.read_bytes() == part.read_bytes()


def test_a_table_of_a_whole_is_not_one_of_any_space(path: Path) -> None:
    write_sample(path, hashed_cells(3), (108,))
    with pytest.raises(ValueError, match=r"nasbench\.tfrecord is a table of space 'nb101', not of 'nb201'"):
        import_table(path, "nb201", {}, None)


@pytest.mark.parametrize("name", ["nb101.arrow", "nasbench_only108.tfrecord", "nasbench_full.tfrecord"])
def test_runs_find_the_rows_of_their_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(catalog, "EMBEDDED", tmp_path / "embedded")
    root, cache = tmp_path / "root", tmp_path / "cache"
    root.mkdir()
    sample = write_sample(tmp_path / "x", hashed_cells(3), (108,))
    if name.endswith(".arrow"):
        write(root / name, read(sample))
    else:
        sample.rename(root / name)
    found = catalog.find("s1", "cifar10", root, cache, FakeSpace().multiplicities)
    assert found is not None
    assert found.parent == cache / "tables"
    assert load(found).keys == (hashed_cells(3)[1].key,)
    before = found.stat()
    assert catalog.find("s1", "cifar10", root, cache, FakeSpace().multiplicities) == found
    assert found.stat() == before
    assert catalog.find("s1", "cifar100", root, cache, FakeSpace().multiplicities) is None
    assert catalog.find("nb201", "cifar10", root, cache, FakeSpace().multiplicities) is None


def test_big_sources_are_known_without_reading_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"a" * 100)
    assert catalog.fingerprint(path) == sha256(path)
    monkeypatch.setattr(catalog, "BIG_BYTES", 50)
    first = catalog.fingerprint(path)
    assert first != sha256(path)
    assert catalog.fingerprint(path) == first
    path.write_bytes(b"a" * 101)
    assert catalog.fingerprint(path) != first
    folder = catalog.fingerprint(tmp_path)
    (tmp_path / "another").touch()
    assert catalog.fingerprint(tmp_path) != folder


def test_a_made_up_file_has_the_trainings_of_the_published_one(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "nasbench_full", str(path), "--cells", "3"]) == 0
    assert capsys.readouterr().out == f"3 made-up cells in the layout of nasbench_full in {path}\n"
    assert len(list(tfrecord.records(path, lambda chunk: None))) == 3 * 4 * RUNS


@pytest.mark.slow
def test_measuring_a_file_is_a_row_of_a_table(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sample(path, unhashed_cells(3), (108,))
    monkeypatch.chdir(Path(__file__).parent.parent)
    assert main(["measure", str(path)]) == 0
    head, _, row = (line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines())
    found = dict(zip(head, row, strict=True))
    assert (found["form"], found["rows"]) == ("NAS-Bench-101, .tfrecord", "3")
    assert found["bytes"] == f"{path.stat().st_size:,}"
    assert all(float(found[name]) > 0 for name in ("CPU s", "open ms", "key µs", "cell µs"))
    assert main(["measure", str(path.with_name("absent"))]) == 2
    assert "absent" in capsys.readouterr().err


def test_made_up_cells_are_cells_of_the_benchmark_that_are_not_pruned() -> None:
    for cell in islice(unhashed_cells(20), 20):
        matrix = [[int(digit) for digit in cell.adjacency[7 * i : 7 * i + 7]] for i in range(7)]
        pruned = prune(matrix, range(7))
        assert pruned is not None
        assert pruned[1] == list(range(7))
        assert cell.adjacency.count("1") == 9
        number = read_cell(cell.adjacency, cell.operations)
        assert cells101.spelt(cells101.words(number)) == (
            "/".join(cell.adjacency[7 * i : 7 * i + 7] for i in range(7)),
            cell.operations.replace("-bn-relu", "").removeprefix("input,").removesuffix(",output"),
        )


def read_cell(adjacency: str, operations: str) -> int:
    nowhere = Evaluation(0.0, 0.0, 0.0, 0.0, 0.0)
    return Training("", 4, adjacency, operations, 1, nowhere, nowhere).cell()


def test_drawn_cells_stand_under_their_hashes() -> None:
    for cell in hashed_cells(5):
        assert spelling.key("nb101", (cell.adjacency, cell.operations)) == cell.key


REAL = Path(os.environ.get("NAS_STABILITY_DATA", "/nonexistent")) / "nasbench_only108.tfrecord"


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_file(), reason="no nasbench_only108.tfrecord in NAS_STABILITY_DATA")
def test_the_real_file_is_whole_and_its_cells_have_our_hashes(tmp_path: Path) -> None:
    data = read(REAL)
    assert data.provenance == ("the sha256 is that of the published nasbench_only108.tfrecord",)
    for row in range(0, len(data.keys), 1000):
        assert spelling.key("nb101", cells101.spelt(data.cells[row])) == data.keys[row]


@pytest.mark.slow
def test_a_run_can_be_given_the_table_of_the_whole_benchmark(path: Path) -> None:
    space = bench.spaces.get("s1")
    genotype = next(space.cells())
    digits = "".join(str(edge) for row in space.matrix(genotype) for edge in row)
    inside = Cell(space.key(genotype), digits, ",".join(space.operations(genotype)))
    write(path.with_name("nb101.arrow"), read(write_sample(path, [*hashed_cells(2), inside], (108,))))
    found = choice.given_table(str(path.with_name("nb101.arrow")), space)
    table = Table.open(found, "cifar10")
    assert (table.space, table.reference().rows) == ("s1", 1)
    assert table.query(inside.key) is not None
    assert table.query(hashed_cells(2)[1].key) is None
