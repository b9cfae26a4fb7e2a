"""`verify`: what differs between two tables."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.tables import Measurement, Slot, TableData, write
from bench.tables.__main__ import main
from bench.tables.compare import differences

VAL, TEST = Slot("toy", "val", 10), Slot("toy", "test", 10)
NAN = float("nan")


def toy() -> TableData:
    runs = np.array([[0.5, 0.75], [0.25, NAN], [0.125, 0.5]])
    return TableData(
        space="toy",
        keys=("a", "b", "c"),
        cells=("one", "two", ""),
        multiplicities=np.array([3, 1, 4]),
        measurements={VAL: Measurement(runs, ("7", "8")), TEST: Measurement(runs / 2, ("7", "8"))},
        scalars={"params": np.array([7.0, NAN, 9.0])},
        total_encodings=10,
        source="here",
    )


def changed(slot: Slot, row: int, run: int, value: float) -> TableData:
    data = toy()
    values = data.measurements[slot].values.copy()
    values[row, run] = value
    return replace(data, measurements={**data.measurements, slot: Measurement(values, ("7", "8"))})


def rows(data: TableData, order: list[int]) -> TableData:
    return replace(
        data,
        keys=tuple(data.keys[row] for row in order),
        cells=tuple(data.cells[row] for row in order),
        multiplicities=data.multiplicities[order],
        measurements={slot: Measurement(m.values[order], m.runs) for slot, m in data.measurements.items()},
        scalars={name: values[order] for name, values in data.scalars.items()},
    )


def test_a_table_equals_itself_in_any_order_and_from_anywhere() -> None:
    assert differences(toy(), replace(rows(toy(), [2, 0, 1]), source="there", provenance=("x",))) == []


CHANGES = {
    "toy/val/10/7: 1 of 3 common rows differ; largest difference 0.25": (
        changed(VAL, 2, 0, 0.375),
        ["    c: A 0.125, B 0.375"],
    ),
    "toy/test/10/8: 1 of 3 common rows differ; largest difference 0": (
        changed(TEST, 1, 1, 0.5),
        ["    b: A nothing, B 0.5"],
    ),
    "1 of 3 rows only in A: c": (rows(toy(), [0, 1]), []),
    "space: A has 'toy', B has 'nb201'": (replace(toy(), space="nb201"), []),
    "total_encodings: A has 10, B has None": (replace(toy(), total_encodings=None), []),
    "cell: 1 of 3 common rows differ": (replace(toy(), cells=("one", "2", "")), ["    b: A 'two', B '2'"]),
    "multiplicity: 1 of 3 common rows differ; largest difference 1": (
        replace(toy(), multiplicities=np.array([3, 2, 4])),
        ["    b: A 1.0, B 2.0"],
    ),
    "params: 1 of 3 common rows differ; largest difference 2": (
        replace(toy(), scalars={"params": np.array([9.0, NAN, 9.0])}),
        ["    a: A 7.0, B 9.0"],
    ),
    "1 of 6 columns only in A: params": (replace(toy(), scalars={}), []),
}


@pytest.mark.parametrize("line", CHANGES)
def test_every_difference_is_named(line: str) -> None:
    other, examples = CHANGES[line]
    assert differences(toy(), other) == [line, *examples]


def test_other_runs_are_other_columns() -> None:
    data = toy()
    other = replace(data, measurements={s: Measurement(m.values, ("7", "9")) for s, m in data.measurements.items()})
    found = differences(data, other)
    assert found == [
        "2 of 6 columns only in A: toy/test/10/8, toy/val/10/8",
        "2 of 6 columns only in B: toy/test/10/9, toy/val/10/9",
    ]


@settings(max_examples=50, deadline=None)
@given(apart=st.floats(0, 0.3), tolerance=st.floats(0, 0.3))
def test_the_tolerance_is_what_numbers_may_be_apart(apart: float, tolerance: float) -> None:
    found = differences(toy(), changed(VAL, 0, 0, 0.5 + apart), tolerance)
    assert bool(found) == (abs(0.5 - (0.5 + apart)) > tolerance)
    assert differences(toy(), changed(VAL, 0, 0, NAN), 1.0)


def test_the_command_says_equal_different_and_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, data in (("a", toy()), ("b", toy()), ("c", changed(VAL, 2, 0, 0.126))):
        write(tmp_path / f"{name}.arrow", data)
    a, b, c = (str(tmp_path / f"{name}.arrow") for name in "abc")
    assert main(["verify", a, b]) == 0
    assert capsys.readouterr().out == "equal: 3 rows, 6 columns of numbers\n"
    assert main(["verify", a, c]) == 1
    assert capsys.readouterr().out.startswith(
        "toy/val/10/7: 1 of 3 common rows differ; largest difference 0.001\n    c:"
    )
    assert main(["verify", a, c, "--rows", "0"]) == 1
    assert capsys.readouterr().out == "toy/val/10/7: 1 of 3 common rows differ; largest difference 0.001\n"
    assert main(["verify", a, c, "--tolerance", "0.01"]) == 0
    assert capsys.readouterr().out == "equal within 0.01: 3 rows, 6 columns of numbers\n"
    assert main(["verify", a, str(tmp_path / "absent.arrow")]) == 2
    assert "error: expected the file of a table, or a space out of" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["verify", a, b, "--tolerance", "-1"])
    assert stopped.value.code == 2
    assert "expected a number from 0 on, got '-1'" in capsys.readouterr().err
