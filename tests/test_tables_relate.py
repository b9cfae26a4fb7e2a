"""`relate`: the agreement of runs, and of two tables."""

from pathlib import Path

import numpy as np
import pytest

from bench.tables import Measurement, Slot, TableData, write
from bench.tables.__main__ import main

NAN = float("nan")


def table(path: Path, test: dict[str, list[float]], dataset: str = "toy") -> Path:
    """A table whose validation accuracies are those of test, turned round."""
    values = np.array(list(test.values()))
    labels = tuple(str(run) for run in range(values.shape[1]))
    content = TableData(
        space="toy",
        keys=tuple(test),
        cells=("",) * len(test),
        multiplicities=np.ones(len(test), dtype=np.int64),
        measurements={
            Slot(dataset, "val", 10): Measurement(1 - values, labels),
            Slot(dataset, "test", 10): Measurement(values, labels),
        },
    )
    write(path, content)
    return path


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return table(tmp_path / "one.arrow", {"a": [0.1, 0.2], "b": [0.2, 0.1], "c": [0.3, 0.4], "d": [0.9, NAN]})


def test_runs_are_compared_where_both_exist(one: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["relate", str(one)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        "toy on toy, 10 epochs: 4 cells, test 0.1500 to 0.7350 (10th–90th percentile), best 0.9000\n"
    )
    assert "between two runs of 3 cells: Spearman 0.500" in said  # ranks 1 2 3 against 2 1 3


def test_tables_are_compared_over_their_common_cells(
    one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Means of one: c .35, d .9, a .15, b .15; x is only in the other.
    other = table(tmp_path / "other.arrow", {"d": [0.3], "c": [0.4], "x": [0.9]})
    assert main(["relate", str(one), str(other)]) == 0
    said = capsys.readouterr().out
    assert "2 cells in common" in said
    assert "  test  Spearman -1.000, Kendall -1.000, best 1: 0.000 shared" in said
    assert "  val   Spearman -1.000" in said


def test_a_table_goes_together_with_itself(one: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["relate", str(one), str(one)]) == 0
    assert "test  Spearman 1.000, Kendall 1.000, best 1: 1.000 shared" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "cifar10"], "no dataset 'cifar10'; it has toy"),
        ([], "expected two tables with cells in common, got none"),
    ],
)
def test_a_wrong_request_is_one_sentence(
    one: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = table(tmp_path / "other.arrow", {"x": [0.3], "y": [0.4]})
    assert main(["relate", str(one), str(other), *arguments]) == 2
    assert message in capsys.readouterr().err
