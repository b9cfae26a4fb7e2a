"""The tidy table as a parquet file: the same table, never an old one."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet
from test_analysis_study import record, spec, write_run, write_study

from analysis import _columnar, export
from analysis.load import runs, tidy


def same(first: pd.DataFrame, second: pd.DataFrame) -> None:
    """Assert that two tables hold the same, rows by run, epoch and stage; missing text is None in both."""
    assert set(first.columns) == set(second.columns)
    order = ["run", "epoch", "stage"]
    first, second = (frame.sort_values(order).reset_index(drop=True) for frame in (first, second))
    for name in first.columns:
        assert first[name].dtype == second[name].dtype, name
        for one, other in zip(first[name], second[name], strict=True):
            if isinstance(one, np.ndarray):
                np.testing.assert_array_equal(one, other)
            else:
                assert (one is None) == (other is None), name
                assert one == other or (pd.isna(one) and pd.isna(other)), name


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write_study(tmp_path)
    _columnar.export(tmp_path, tmp_path / _columnar.NAME)
    return tmp_path


def forbid(monkeypatch: pytest.MonkeyPatch, *allowed: str) -> None:
    """Let only the named runs be read from their folders."""
    read = _columnar.read_runs

    def watched(folders: list[Path]) -> list:
        assert [folder.name for folder in folders] == list(allowed)
        return read(folders)

    monkeypatch.setattr(_columnar, "read_runs", watched)


def test_the_file_gives_the_table_back_without_reading_runs(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    direct = tidy(runs(results))
    forbid(monkeypatch)
    found = _columnar.table(results)
    same(found, direct)
    assert list(found.columns) == list(direct.columns)


def test_a_command_on_a_wide_file_warns_of_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, spec("s1", "darts", 0, settings={f"one{i}": i for i in range(120)}), [record(0)])
    for name, out in (("export", tmp_path / _columnar.NAME), ("tables", tmp_path / "tables")):
        command = [sys.executable, "-m", f"analysis.{name}", "--results", str(tmp_path), "--out", str(out)]
        assert subprocess.run(command, check=True, capture_output=True, text=True).stderr == ""


def test_without_a_file_runs_are_read(tmp_path: Path) -> None:
    write_run(tmp_path, spec("s1", "darts", 0), [record(0)])
    same(_columnar.table(tmp_path), tidy(runs(tmp_path)))


def test_runs_that_changed_or_came_later_are_read_anew(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(results, spec("s1", "new", 9, settings={"only": 1}), [record(0)])
    with (results / "runs" / "s1-darts-s5-sig5" / "records.jsonl").open("a") as file:
        file.write('{"epoch": 2, "stage": "search", "regret_test": 0.5}\n')
    (results / "runs" / "s1-darts-s5-sig5" / "finished.json").write_text('{"records": 3}')
    direct = tidy(runs(results))
    forbid(monkeypatch, "s1-darts-s5-sig5", "s1-new-s9-sig9")
    found = _columnar.table(results)
    same(found, direct)
    assert len(found[found["run"] == "s1-darts-s5-sig5"]) == 3


def test_a_run_of_the_same_size_at_another_time_is_read_anew(results: Path) -> None:
    path = results / "runs" / "s1-darts-s0-sig0" / "records.jsonl"
    path.write_text(path.read_text().replace('"val_loss": 1.0', '"val_loss": 7.0'))
    os.utime(path, ns=(1, 1))
    found = _columnar.table(results)
    assert set(found.loc[found["run"] == "s1-darts-s0-sig0", "val_loss"]) == {7.0}


def test_runs_that_are_gone_are_left_out(results: Path) -> None:
    (results / "runs" / "s1-darts-s0-sig0").rename(results / "elsewhere")
    found = _columnar.table(results)
    assert "s1-darts-s0-sig0" not in set(found["run"])
    same(found, tidy(runs(results)))


def test_damaged_lines_are_named_again(results: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = results / "runs" / "s1-darts-s0-sig0" / "records.jsonl"
    path.write_text(path.read_text() + '{"epoch": 9')
    _columnar.export(results, results / _columnar.NAME)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        _columnar.table(results)
    assert "records.jsonl:6: not a JSON object, left out" in caplog.text


def test_a_file_of_another_program_is_not_used(results: Path) -> None:
    parquet.write_table(
        parquet.read_table(results / _columnar.NAME).replace_schema_metadata({}), results / _columnar.NAME
    )
    same(_columnar.table(results), tidy(runs(results)))


def test_a_column_of_several_types_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, spec("s1", "darts", 0), [record(0, odd="text"), record(1, odd=1)])
    with pytest.raises(ValueError, match="expected one type in the column 'odd', got several"):
        _columnar.export(tmp_path, tmp_path / "out.parquet")


def test_the_command_writes_the_file(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = results / "elsewhere" / "all.parquet"
    assert export.main(["--results", str(results), "--out", str(out)]) == 0
    assert "12 runs, " in capsys.readouterr().out
    assert parquet.read_table(out).num_rows == len(tidy(runs(results)))
    assert export.main(["--results", str(results / "nowhere")]) == 2
    assert "analysis.export: no runs under" in capsys.readouterr().err
