import contextlib
import hashlib
import io
import string
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.tables import Measurement, Slot, Table, TableData, load, write
from bench.tables import keys as table_keys
from bench.tables.__main__ import main
from bench.tables.arrow import mapped
from bench.tables.data import content_digest, flat_numbers

VAL, TEST = Slot("toy", "val", 10), Slot("toy", "test", 10)
NAN = float("nan")


def toy(keys: tuple[str, ...] = ("c", "a", "b"), **changes: object) -> TableData:
    """Three cells: two runs, one run, and a third that only another budget has."""
    rows = len(keys)
    values = np.array([[0.5, 0.75], [0.25, NAN], [NAN, NAN]])[:rows]
    full = Measurement(np.linspace(0.1, 0.4, rows)[:, None], ("7",))
    data = TableData(
        space="toy",
        keys=keys,
        cells=tuple(f"cell {key}" for key in keys),
        multiplicities=np.array([3, 1, 4])[:rows],
        measurements={
            VAL: Measurement(values, ("7", "8")),
            TEST: Measurement(values / 2, ("7", "8")),
            VAL._replace(budget=2): full,
            TEST._replace(budget=2): full,
        },
        scalars={"params": np.array([7.0, NAN, 9.0])[:rows], "toy/train_time_s/10": np.array([1.5, NAN, NAN])[:rows]},
        total_encodings=10,
        source="made up",
    )
    return replace(data, **changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "toy.arrow", toy())
    return tmp_path / "toy.arrow"


def same(one: TableData, other: TableData) -> bool:
    """Equal content; rows may be in another order."""
    slots = {slot: m.runs for slot, m in one.measurements.items()} == {s: m.runs for s, m in other.measurements.items()}
    return slots and one.scalars.keys() == other.scalars.keys() and content_digest(one) == content_digest(other)


def test_an_entry_has_all_runs_and_their_means(path: Path) -> None:
    entry = Table.open(path, "toy").query("c")
    assert entry is not None
    assert (entry.val, entry.test) == ((0.5, 0.75), (0.25, 0.375))
    assert (entry.val_mean, entry.test_mean) == (0.625, 0.3125)
    assert (entry.key, entry.n_runs, entry.budget) == ("c", 2, 10)
    assert (entry.params, entry.flops, entry.train_time_s) == (7, None, 1.5)


def test_a_run_that_does_not_exist_is_neither_counted_nor_averaged(path: Path) -> None:
    entry = Table.open(path, "toy").query("a")
    assert entry is not None
    assert (entry.val, entry.val_mean, entry.test_mean, entry.n_runs) == ((0.25,), 0.25, 0.125, 1)
    assert (entry.params, entry.train_time_s) == (None, None)


@pytest.mark.parametrize("key", ["", "d", "A", "a ", "aa", "ä"])
def test_a_key_that_is_not_stored_is_a_miss(path: Path, key: str) -> None:
    assert Table.open(path, "toy").query(key) is None


def test_a_cell_without_runs_at_this_budget_is_a_miss(path: Path) -> None:
    assert Table.open(path, "toy").query("b") is None
    assert Table.open(path, "toy", budget=2).query("b") is not None


def test_the_largest_budget_is_the_default(path: Path) -> None:
    assert Table.open(path, "toy").budget == 10
    entry = Table.open(path, "toy", budget=2).query("a")
    assert entry is not None
    assert (entry.budget, entry.train_time_s, entry.params) == (2, None, None)


def test_keys_that_share_a_digest_are_told_apart_by_their_text(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_keys, "digest", lambda key: np.uint64(5))
    write(path, toy())
    table = Table.open(path, "toy")
    entries = [table.query(key) for key in ("a", "c")]
    assert [entry.key for entry in entries if entry] == ["a", "c"]
    assert table.query("d") is None


def test_reference_is_of_the_rows_that_have_runs(path: Path) -> None:
    reference = Table.open(path, "toy").reference()
    assert (reference.rows, reference.coverage) == (2, 0.4)
    assert (reference.optimum_val, reference.optimum_test) == (0.625, 0.3125)
    assert reference.optimum_val_keys == reference.optimum_test_keys == ("c",)
    assert reference.random_cell_val == pytest.approx((3 * 0.625 + 0.25) / 4, abs=1e-15)
    assert reference.random_cell_test == pytest.approx((3 * 0.3125 + 0.125) / 4, abs=1e-15)
    assert (reference.dataset, reference.budget, reference.space, reference.source) == ("toy", 10, "toy", "made up")


def test_optima_of_validation_and_test_are_separate_and_ties_are_all_named(path: Path) -> None:
    val, test = np.array([[0.1, 0.2, 0.6], [0.6, 0.1, 0.2], [0.0, 0.1, 0.2]]), np.array([[0.3], [0.2], [0.4]])
    measurements = {VAL: Measurement(val, ("1", "2", "3")), TEST: Measurement(test, ("1",))}
    write(path, toy(measurements=measurements))
    reference = Table.open(path, "toy").reference()
    assert (reference.optimum_val_keys, reference.optimum_test_keys) == (("a", "c"), ("b",))


def test_coverage_is_unknown_without_the_number_of_encodings(path: Path) -> None:
    write(path, toy(total_encodings=None))
    assert Table.open(path, "toy").reference().coverage is None


def test_means_without_runs_report_the_runs_behind_them(path: Path) -> None:
    means = Measurement(np.array([[0.5], [0.25], [NAN]]), ("mean",), np.array([3, 2, 0]))
    write(path, toy(measurements={VAL: means, TEST: means}))
    entry = Table.open(path, "toy").query("c")
    assert entry is not None
    assert (entry.test, entry.test_mean, entry.n_runs) == ((0.5,), 0.5, 3)


def test_numbers_are_views_into_the_mapped_file(path: Path) -> None:
    table = Table.open(path, "toy")
    assert table._params is not None
    for values in (table._keys._digests, table._val.stored, table._test.stored, table._params.stored):
        assert not values.flags.writeable
        owner = values
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        assert isinstance(owner.base, pa.Buffer)


def test_a_change_of_the_file_in_place_is_seen_through_the_map(path: Path) -> None:
    table = Table.open(path, "toy")
    place = path.read_bytes().index(np.uint16([2496, 3744]).tobytes())  # of 9,984 images
    with path.open("r+b") as file:
        file.seek(place + 2)
        file.write(np.uint16(8736).tobytes())
    entry = table.query("c")
    assert entry is not None
    assert entry.test == (0.25, 0.875)


def test_rows_are_sorted_by_the_documented_digest(path: Path) -> None:
    batch, _ = mapped(path)
    digests = batch.column("digest").to_pylist()
    assert digests == sorted(digests)
    expected = [int(hashlib.md5(key.encode()).hexdigest()[:16], 16) for key in batch.column("key").to_pylist()]
    assert digests == expected
    assert table_keys.digest("a") == 0x0CC175B9C0F1B6A8


def test_a_replaced_file_does_not_disturb_an_open_table(path: Path) -> None:
    table = Table.open(path, "toy")
    write(path, toy(keys=("x",)))
    assert table.query("c") is not None
    assert Table.open(path, "toy").query("c") is None
    assert [found.name for found in path.parent.iterdir()] == ["toy.arrow"]


def test_a_failed_write_leaves_the_old_file(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ValueError, match="key 'a' stands in 2 rows"):
        write(path, toy(keys=("a", "a", "b")))
    assert path.read_bytes() == before


def test_the_digest_is_of_the_content_alone(path: Path) -> None:
    order = [2, 0, 1]
    data = toy()
    turned = replace(
        data,
        keys=tuple(data.keys[row] for row in order),
        cells=tuple(data.cells[row] for row in order),
        multiplicities=data.multiplicities[order],
        measurements={s: Measurement(m.values[order], m.runs) for s, m in reversed(data.measurements.items())},
        scalars={name: values[order] for name, values in data.scalars.items()},
        source="elsewhere",
    )
    assert content_digest(turned) == content_digest(data) == Table.open(path, "toy").reference().digest
    assert content_digest(toy(multiplicities=np.array([3, 1, 5]))) != content_digest(data)
    assert content_digest(toy(cells=("cell c", "cell a", "cell d"))) != content_digest(data)


def test_equal_numbers_are_equal_bytes(path: Path) -> None:
    odd = [np.array([7.0, sign * NAN, sign * 0.0]) for sign in (1.0, -1.0)]
    files = []
    for params in odd:
        write(path, toy(scalars={"params": params}))
        files.append(path.read_bytes())
    assert odd[0].tobytes() != odd[1].tobytes()
    assert files[0] == files[1]
    assert content_digest(toy(scalars={"params": odd[0]})) == content_digest(toy(scalars={"params": odd[1]}))


def test_opening_what_is_not_there_names_what_is(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no table at .*absent\.arrow"):
        Table.open(path.with_name("absent.arrow"), "toy")
    with pytest.raises(ValueError, match="no dataset 'cifar10'; it has toy"):
        Table.open(path, "cifar10")
    with pytest.raises(ValueError, match=r"no budget 200 for toy; it has \[2, 10\]"):
        Table.open(path, "toy", 200)


@pytest.mark.parametrize("kept", [0, 4, 200, 0.5, 0.99])
def test_a_truncated_file_is_refused(path: Path, kept: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content) if isinstance(kept, float) else kept)])
    with pytest.raises(ValueError, match=r"toy\.arrow is damaged or not a benchmark table"):
        Table.open(path, "toy")


def test_other_files_are_refused(path: Path) -> None:
    path.write_text("not Arrow at all")
    with pytest.raises(ValueError, match="damaged or not a benchmark table"):
        Table.open(path, "toy")
    other = pa.table({"key": ["a"]})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, other.schema) as writer:
        writer.write_table(other)
    with pytest.raises(ValueError, match="not a benchmark table: it is an Arrow file of something else"):
        Table.open(path, "toy")


def test_another_format_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.tables.arrow.FORMAT", 99)
    with pytest.raises(ValueError, match="has format 2, expected 99"):
        Table.open(path, "toy")


def test_a_changed_number_is_found_when_the_whole_table_is_read(path: Path) -> None:
    content = path.read_bytes()
    runs = np.uint16([2496, 3744]).tobytes()
    assert content.count(runs) == 1
    path.write_bytes(content.replace(runs, np.uint16([2496, 3745]).tobytes()))
    with pytest.raises(ValueError, match=r"toy\.arrow is damaged: expected content"):
        load(path)


BAD = {
    "got 0 rows": {"keys": (), "cells": (), "multiplicities": np.array([], dtype=np.int64), "scalars": {}},
    "row 0 has an empty key": {"keys": ("", "a", "b")},
    "expected 3 rows in every column, got {'cell': 1}": {"cells": ("",)},
    "multiplicities from 1 to": {"multiplicities": np.array([3, 0, 4])},
    r"unknown columns \['speed'\]": {"scalars": {"speed": np.zeros(3)}},
    "toy/val/10 holds 62.5, expected fractions": {
        "measurements": {slot: Measurement(np.full((3, 1), 62.5), ("7",)) for slot in (VAL, TEST)}
    },
    "toy/val/10 needs toy/test/10": {"measurements": {VAL: Measurement(np.zeros((3, 1)), ("7",))}},
    "key 'a' has runs of toy/val/10 and none of toy/test/10": {
        "measurements": {
            VAL: Measurement(np.zeros((3, 1)), ("7",)),
            TEST: Measurement(np.array([[0.5], [NAN], [0.5]]), ("7",)),
        }
    },
    "toy/val/10/mean stands alone": {
        "measurements": {slot: Measurement(np.zeros((3, 1)), ("mean",)) for slot in (VAL, TEST)}
    },
    "n_runs is positive exactly where": {
        "measurements": {slot: Measurement(np.zeros((3, 1)), ("mean",), np.array([1, 0, 1])) for slot in (VAL, TEST)}
    },
    "has 2 columns for the runs": {
        "measurements": {slot: Measurement(np.zeros((3, 2)), ("7",)) for slot in (VAL, TEST)}
    },
    "without further '/'": {"measurements": {slot: Measurement(np.zeros((3, 1)), ("7/8",)) for slot in (VAL, TEST)}},
}


@pytest.mark.parametrize("message", BAD)
def test_data_that_is_no_table_is_not_written(tmp_path: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "toy.arrow", toy(**BAD[message]))
    assert not list(tmp_path.iterdir())


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(alphabet=string.printable + "äΩ\0", min_size=1), min_size=1, unique=True), st.data())
def test_a_query_is_a_dictionary_lookup(tmp_path_factory: pytest.TempPathFactory, keys: list[str], draw) -> None:
    path = tmp_path_factory.mktemp("query") / "t.arrow"
    accuracies = st.lists(st.floats(0, 1), min_size=len(keys), max_size=len(keys))
    val, test = (np.array(draw.draw(accuracies))[:, None] for _ in range(2))
    data = TableData(
        space="toy",
        keys=tuple(keys),
        cells=("",) * len(keys),
        multiplicities=np.ones(len(keys), dtype=np.int64),
        measurements={VAL: Measurement(val, ("0",)), TEST: Measurement(test, ("0",))},
    )
    write(path, data)
    table = Table.open(path, "toy")
    expected = dict(zip(keys, zip(val[:, 0], test[:, 0], strict=True), strict=True))
    for key in [*keys, *(key[:-1] for key in keys), *(key + "x" for key in keys), *map(str.upper, keys)]:
        entry = table.query(key)
        assert (entry and (entry.val_mean, entry.test_mean)) == expected.get(key)
    reference = table.reference()
    assert reference.optimum_val == val.max()
    assert all(expected[key][1] == test.max() for key in reference.optimum_test_keys)


def test_what_is_written_is_what_is_read(path: Path) -> None:
    data = load(path)
    assert same(data, toy())
    assert set(flat_numbers(data)) == set(flat_numbers(toy()))
    assert (data.space, data.source, data.total_encodings, data.provenance) == ("toy", "made up", 10, ())


def test_importing_and_querying_loads_neither_torch_nor_pandas(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from bench.tables import Table; import bench.tables.catalog\n"
        f"Table.open(Path({str(path)!r}), 'toy').query('c')\n"
        "assert not {'torch', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_budget_that_was_only_measured_on_the_way_is_none(path: Path) -> None:
    full = toy().measurements[VAL]
    on_the_way = {slot._replace(budget=200, epoch=100): full for slot in (VAL, TEST)}
    write(path, toy(measurements={**toy().measurements, **on_the_way}))
    assert Table.open(path, "toy").budget == 10
    with pytest.raises(ValueError, match=r"no budget 200 for toy; it has \[2, 10\]"):
        Table.open(path, "toy", 200)


def test_measurements_that_lie_packed_follow_their_keys(path: Path) -> None:
    data = load(path)
    turned = replace(data, keys=data.keys[::-1])
    write(path.with_name("turned.arrow"), turned)
    again = load(path.with_name("turned.arrow"))
    for slot, measurement in data.measurements.items():
        for row, key in enumerate(turned.keys):
            found = again.measurements[slot].values[again.keys.index(key)]
            np.testing.assert_array_equal(found, measurement.values[row])


def test_hexadecimal_keys_are_found_by_both_halves(path: Path) -> None:
    keys = ("0" * 32, "0" * 31 + "1", "f" * 32)
    write(path, toy(keys=keys))
    table = Table.open(path, "toy", 2)
    entries = [table.query(key) for key in keys]
    assert [round(entry.val_mean, 2) for entry in entries if entry] == [0.1, 0.25, 0.4]
    for key in ("0" * 31 + "2", "F" * 32, "0" * 16, "f" * 33, "", "0" * 31 + "g"):
        assert table.query(key) is None
    assert Table.open(path, "toy", 2).reference().optimum_val_keys == ("f" * 32,)
    assert load(path).keys == keys


@pytest.mark.parametrize(
    ("scalars", "wrong", "message"),
    [
        (
            {},
            [VAL._replace(epoch=10), TEST._replace(epoch=10)],
            "before the end in <budget>@<epoch>, got toy/val/10@10",
        ),
        ({}, [Slot("toy", "train_time_s", 10)], "toy/train_time_s/10 holds -1, expected seconds, 0 or more"),
        (
            {"toy/train_time_s/10": np.zeros(3)},
            [Slot("toy", "train_time_s", 10)],
            "either of single runs or one number",
        ),
    ],
)
def test_times_and_epochs_are_checked(path: Path, scalars: dict, wrong: list[Slot], message: str) -> None:
    values = Measurement(np.full((3, 1), -1.0 if "seconds" in message else 0.5), ("7",))
    with pytest.raises(ValueError, match=message):
        write(path, toy(scalars=scalars, measurements=toy().measurements | dict.fromkeys(wrong, values)))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 2**20), flipped=st.integers(0, 255), also=st.integers(0, 2**20))
def test_a_damaged_table_is_refused_or_has_all_its_numbers(path: Path, place: int, flipped: int, also: int) -> None:
    """A byte changed at two places, or the file cut there; a query reads the header, `info` every number."""
    write(path, toy())
    content, before = bytearray(path.read_bytes()), load(path)
    for where in (place, also):
        content[where % len(content)] ^= flipped
    path.write_bytes(content if flipped else content[: place % len(content)])
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        codes = main(["info", str(path)]), main(["query", str(path), "c"])
    assert codes[0] in {0, 2}
    assert codes[1] in {0, 1, 2}
    assert said.getvalue().count("\n") == codes.count(2)
    if codes[0] == 0:
        assert same(load(path), before)
