"""The flat layout: what users bring with named columns, and `export`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.tables import Measurement, Slot, Table, TableData, load, write
from bench.tables.data import content_digest, flat_numbers
from bench.tables.flat import export
from bench.tables.forms import FileForm, Report, import_table, space_of

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
LABEL = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=6)
RUN = LABEL.filter(lambda run: run not in {"mean", "n_runs"})
NAN = float("nan")

HEADER = "key,cell,multiplicity,params,toy/val/10/7,toy/test/10/7,toy/train_time_s/10"
ROWS = "a,first,2,7,0.5,0.25,1.5\nb,,1,,0.75,0.5,\n"


@st.composite
def accuracies(draw, rows: int) -> list[dict]:
    """Fields of training, validation and test of one dataset and budget, runs or means; the same rows have any."""
    present = np.array(draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
    if draw(st.booleans()):
        counts = np.where(present, draw(st.integers(1, 9)), 0)
        return [{"values": draw(values(present, 1)), "runs": ("mean",), "n_runs": counts} for _ in range(3)]
    labels = [tuple(draw(st.lists(RUN, min_size=1, max_size=3, unique=True))) for _ in range(3)]
    return [{"values": draw(values(present, len(runs))), "runs": runs} for runs in labels]


@st.composite
def values(draw, present: np.ndarray, runs: int) -> np.ndarray:
    number = st.floats(0, 1)
    found = np.array([[draw(number) for _ in range(runs)] for _ in present])
    found[:, 1:][draw(st.lists(st.booleans(), min_size=len(present), max_size=len(present)))] = NAN
    found[~present] = NAN
    return found


@st.composite
def tables(draw) -> dict:
    """Fields of a table; the objects are built outside, because beartype draws from `random`."""
    keys = tuple(draw(st.lists(TEXT.filter(bool), min_size=1, max_size=5, unique=True)))
    rows = len(keys)
    scalar = st.lists(st.floats(allow_infinity=False), min_size=rows, max_size=rows).map(np.array)
    budgets = draw(st.lists(st.tuples(LABEL, st.integers(1, 300)), min_size=1, max_size=3, unique=True))
    names = draw(st.sets(st.sampled_from(["params", "flops", "toy/flops", "toy/params", "toy/train_time_s/10"])))
    return {
        "keys": keys,
        "cells": tuple(draw(st.lists(TEXT, min_size=rows, max_size=rows))),
        "multiplicities": np.array(draw(st.lists(st.integers(1, 2**31 - 1), min_size=rows, max_size=rows))),
        "measurements": {budget: draw(accuracies(rows)) for budget in budgets},
        "scalars": {name: draw(scalar) for name in sorted(names)},
        "total_encodings": draw(st.none() | st.integers(1, 10**7)),
        "source": draw(TEXT.filter(bool)),
        "provenance": tuple(draw(st.lists(TEXT, max_size=2))),
    }


def build(fields: dict) -> TableData:
    measurements = {
        Slot(dataset, split, budget): Measurement(**measured)
        for (dataset, budget), triple in fields["measurements"].items()
        for split, measured in zip(("train", "val", "test"), triple, strict=True)
    }
    return TableData(**(fields | {"measurements": measurements}), space="toy", source_sha256="0" * 64)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=40)
@given(fields=tables())
def test_import_of_an_export_is_the_identity(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, fields: dict
) -> None:
    data = build(fields)
    folder = tmp_path_factory.mktemp("flat")
    write(folder / "one.arrow", data)
    export(folder / "one.arrow", folder / f"two{suffix}")
    again = import_table(folder / f"two{suffix}", "toy", {}, data.total_encodings)
    write(folder / "three.arrow", again)
    one, three = load(folder / "one.arrow"), load(folder / "three.arrow")
    assert (one.keys, one.cells) == (three.keys, three.cells)
    assert {slot: m.runs for slot, m in one.measurements.items()} == {s: m.runs for s, m in three.measurements.items()}
    numbers = flat_numbers(three)
    assert numbers.keys() == flat_numbers(one).keys()
    for name, values in flat_numbers(one).items():
        np.testing.assert_array_equal(numbers[name], values, err_msg=name)
    assert content_digest(one) == content_digest(three) == content_digest(data)
    assert one.total_encodings == three.total_encodings
    if suffix == ".parquet":
        assert (folder / "one.arrow").read_bytes() == (folder / "three.arrow").read_bytes()


@pytest.fixture
def csv_file(tmp_path: Path) -> Path:
    (tmp_path / "mine.csv").write_text(f"{HEADER}\n{ROWS}", encoding="utf-8")
    return tmp_path / "mine.csv"


def test_named_columns_are_read(csv_file: Path) -> None:
    data = import_table(csv_file, "toy", {}, 3)
    assert (data.keys, data.cells, data.multiplicities.tolist()) == (("a", "b"), ("first", ""), [2, 1])
    assert data.measurements[Slot("toy", "val", 10)].values.tolist() == [[0.5], [0.75]]
    np.testing.assert_array_equal(data.scalars["params"], [7, NAN])
    assert (data.source, data.total_encodings) == ("mine.csv", 3)
    assert space_of(csv_file) is None


def test_keys_that_look_like_numbers_stay_text(csv_file: Path) -> None:
    csv_file.write_text("key,toy/val/1/0,toy/test/1/0\n007,1,0\nnan,0,1\n", encoding="utf-8")
    data = import_table(csv_file, "toy", {}, None)
    assert (data.keys, data.multiplicities.tolist()) == (("007", "nan"), [1, 1])


def test_percent_only_by_name(csv_file: Path) -> None:
    csv_file.write_text("key,toy/val/1/0,toy/test/1/0\na,93.5,50\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"toy/val/1 holds 93\.5, expected fractions in \[0, 1\]"):
        import_table(csv_file, "toy", {}, None)
    data = import_table(csv_file, "toy", {}, None, "percent")
    assert data.measurements[Slot("toy", "val", 1)].values.tolist() == [[0.935]]


def test_the_space_gives_multiplicities_and_chooses_rows(csv_file: Path) -> None:
    csv_file.write_text("key,toy/val/1/0,toy/test/1/0\na,1,0\nb,0,1\nc,0,0\n", encoding="utf-8")
    data = import_table(csv_file, "toy", {"a": 5, "c": 2, "z": 9}, 16)
    assert (data.keys, data.multiplicities.tolist()) == (("a", "c"), [5, 2])
    assert data.measurements[Slot("toy", "test", 1)].values.tolist() == [[0], [0]]
    with pytest.raises(ValueError, match=r"none of the 3 cells of mine\.csv belong to toy"):
        import_table(csv_file, "toy", {"x": 1}, 16)


def test_multiplicities_of_the_file_rule(csv_file: Path) -> None:
    assert import_table(csv_file, "toy", {"a": 9}, None).multiplicities.tolist() == [2, 1]


def test_an_exported_parquet_says_its_space_and_keeps_its_source(tmp_path: Path, csv_file: Path) -> None:
    write(tmp_path / "t.arrow", import_table(csv_file, "toy", {}, 3))
    export(tmp_path / "t.arrow", tmp_path / "t.parquet")
    assert space_of(tmp_path / "t.parquet") == "toy"
    again = import_table(tmp_path / "t.parquet", "toy", {}, None)
    assert (again.source, again.total_encodings) == ("mine.csv", 3)
    with pytest.raises(ValueError, match=r"t\.parquet is a table of space 'toy', not of 's1'"):
        import_table(tmp_path / "t.parquet", "s1", {}, None)


def test_parquet_of_other_types_is_read(tmp_path: Path) -> None:
    table = pa.table(
        {
            "key": pa.array([7, 8]),
            "cell": pa.array(["x", None]),
            "toy/val/1/0": pa.array([0.5, 1.0], pa.float32()),
            "toy/test/1/0": pa.array([0, 1], pa.int8()),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    data = import_table(tmp_path / "t.parquet", "toy", {}, None)
    assert (data.keys, data.cells) == (("7", "8"), ("x", ""))
    write(tmp_path / "t.arrow", data)
    entry = Table.open(tmp_path / "t.arrow", "toy").query("8")
    assert entry is not None
    assert (entry.val_mean, entry.test_mean) == (1.0, 1.0)


BAD = {
    "key 'a' stands in 2 rows": f"{HEADER}\na,,1,,0.5,0.5,\na,,1,,0.5,0.5,\n",
    r"not columns of the flat layout, or not each once: \['tast'\]": "key,tast\na,1\n",
    "not each once: .*'toy/val/1/0', 'toy/val/1/0'": "key,toy/val/1/0,toy/val/1/0\na,1,1\n",
    "toy/val/1 needs toy/test/1 beside it": "key,toy/val/1/0\na,1\n",
    "toy/val/1/mean stands alone": "key,toy/val/1/mean,toy/test/1/mean\na,1,1\n",
    "column 'toy/val/1/n_runs' counts the runs of a mean": "key,toy/val/1/n_runs\na,1\n",
    "row 0 has an empty key": "key,toy/val/1/0,toy/test/1/0\n,1,1\n",
    "1 rows have no multiplicity": "key,multiplicity,toy/val/1/0,toy/test/1/0\na,,1,1\n",
    "got 0 rows": f"{HEADER}\n",
    "has no known form": "name,accuracy\na,1\n",
    "neither parquet nor CSV that can be read: .*CSV conversion error": "key,toy/val/1/0\na,good\n",
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_file_is_one_clear_sentence(csv_file: Path, message: str) -> None:
    csv_file.write_text(BAD[message], encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        import_table(csv_file, "toy", {}, None)


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing", b"\xff\xfe\x00\x01,\xff\n1,2\n"])
def test_a_damaged_file_is_refused(csv_file: Path, content: bytes) -> None:
    csv_file.write_bytes(content)
    with pytest.raises(ValueError, match=r"mine\.csv is neither parquet nor CSV that can be read"):
        import_table(csv_file, "toy", {}, None)


def test_an_absent_file_and_an_unknown_export_are_refused(tmp_path: Path, csv_file: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file at .*absent\.csv"):
        import_table(tmp_path / "absent.csv", "toy", {}, None)
    write(tmp_path / "t.arrow", import_table(csv_file, "toy", {}, None))
    with pytest.raises(ValueError, match=r"writes \.parquet, \.csv or \.jsonl, got 't\.xlsx'"):
        export(tmp_path / "t.arrow", tmp_path / "t.xlsx")


def test_a_folder_can_be_a_form_and_is_tried_before_columns(
    tmp_path: Path, csv_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = import_table(csv_file, "toy", {}, 3)
    told: list[tuple[int, int]] = []

    def read(path: Path, report: Report) -> TableData:
        report(1, 2)
        return replace(data, source=path.name, source_sha256="0" * 64)

    form = FileForm("a folder", lambda path: (path / "mark").is_file(), read, "toy")
    monkeypatch.setattr("bench.tables.forms.FILE_FORMS", (form,))
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match=r"the folder .* has none of the forms"):
        import_table(tmp_path / "folder", "toy", {}, None)
    (tmp_path / "folder" / "mark").touch()
    assert space_of(tmp_path / "folder") == "toy"
    found = import_table(tmp_path / "folder", "toy", {"b": 4}, 9, report=lambda done, total: told.append((done, total)))
    assert (found.keys, found.multiplicities.tolist(), found.source) == (("b",), [4], "folder")
    assert told == [(1, 2)]
    assert import_table(csv_file, "toy", {}, 3).source == "mine.csv"


LINES = [
    '{"key": "a", "cell": "first", "multiplicity": 2, "params": 7, "toy/val/10/7": 0.5, "toy/test/10/7": 0.25}',
    "",
    '{"toy/test/10/7": 0.5, "key": "b", "toy/val/10/7": 0.75, "multiplicity": 1, "params": null}',
]


def test_json_lines_are_read(csv_file: Path) -> None:
    csv_file.write_text("\n".join(LINES), encoding="utf-8-sig")
    data = import_table(csv_file, "toy", {}, 3)
    assert (data.keys, data.cells, data.multiplicities.tolist()) == (("a", "b"), ("first", ""), [2, 1])
    assert data.measurements[Slot("toy", "test", 10)].values.tolist() == [[0.25], [0.5]]
    np.testing.assert_array_equal(data.scalars["params"], [7, NAN])
    assert space_of(csv_file) is None


BAD_LINES = {
    r"mine\.csv, line 3: expected one JSON object, got '.*not JSON": LINES[0] + '\n\n{"key": not JSON}',
    r"mine\.csv, line 2: expected one JSON object, got .*: NaN is not JSON; write null": LINES[0] + '\n{"params": NaN}',
    r"mine\.csv, line 1: expected one JSON object, got .*a name stands in it twice": '{"key": "a", "key": "b"}',
    r"mine\.csv, line 2: expected a JSON object of named columns, got '\[1\]'": LINES[0] + "\n[1]",
    r"mine\.csv, line 1: expected text for 'key', got 7": '{"key": 7}',
    r"mine\.csv, line 1: expected a number for 'params', got '7'": '{"key": "a", "params": "7"}',
    r"mine\.csv, line 1: expected a number for 'params', got True": '{"key": "a", "params": true}',
    r"mine\.csv, line 1: expected a number for 'params', got 1000": '{"key": "a", "params": 1' + "0" * 400 + "}",
    r"not columns of the flat layout, or not each once: \['tast'\]": '{"key": "a", "tast": 1}',
    "1 rows have no key": LINES[0] + '\n{"toy/val/10/7": 0.5, "toy/test/10/7": 0.25, "multiplicity": 1}',
    "1 rows have no multiplicity": LINES[0] + '\n{"key": "b", "toy/val/10/7": 0.5, "toy/test/10/7": 0.25}',
    r"mine\.csv is neither parquet nor CSV": "{\udcff}",
}


@pytest.mark.parametrize("message", BAD_LINES)
def test_a_bad_line_is_named(csv_file: Path, message: str) -> None:
    csv_file.write_text(BAD_LINES[message], encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match=message):
        import_table(csv_file, "toy", {}, None)
