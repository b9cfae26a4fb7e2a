"""Made-up results of many runs: in the exact format, with the states that are said, and what is left is found."""

from pathlib import Path

import pytest
from tests import benches

from analysis import load
from bench import setup
from bench.launch import scale
from bench.launch.plan import plan


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unchecked: None) -> None:
    benches.isolate(monkeypatch, tmp_path)


@pytest.mark.slow
def test_made_up_runs_are_read_like_real_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "r"
    assert scale.main(["--runs", "60", "--epochs", "12", "--folder", str(folder)]) == 0
    assert "48 runs done, 6 units go on, 6 begin" in capsys.readouterr().out
    found, (real,) = load.runs(folder), load.runs(folder / "sample")
    assert len(found) == 54
    assert sum(run.finished for run in found) == 48
    assert not [warning for run in found for warning in run.warnings]
    for run in found:
        assert [set(record) for record in run.records] == [set(real.records[0])] * (14 if run.finished else 7)
        assert ["spectrum" in (record["curvature"] or {}) for record in run.records[:12]] == [
            epoch % 10 == 0 for epoch in range(len(run.records[:12]))
        ]
    frame = load.tidy(found)
    assert frame["train_loss"].nunique() > 500
    assert frame["error_test"].notna().all()


@pytest.mark.slow
def test_an_interrupted_one_goes_on(tmp_path: Path) -> None:
    """Its checkpoint is a real one."""
    folder = tmp_path / "r"
    assert scale.main(["--runs", "9", "--epochs", "4", "--folder", str(folder)]) == 0
    bench = setup.prepare(scale.asked(9, 4, folder))
    (unit,) = plan(bench, scale.every_variant(bench)).units
    assert (unit.resumes, unit.seeds) == (True, (8,))


def test_a_folder_with_runs_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "runs").mkdir()
    assert scale.main(["--folder", str(tmp_path)]) == 2
    assert "expected a folder without runs" in caplog.text
