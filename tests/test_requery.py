"""Runs looked up in another table are the runs that would have been searched with it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests import benches
from tests.benches import command, folders, lines, table

from bench import requery, run

Errors = Callable[[], list[str]]

DECIDED = ("records.jsonl", "spec.json", "table.json", "finished.json")
"""Files that do not depend on when and where a run was searched."""


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unchecked: None) -> None:
    benches.isolate(monkeypatch, tmp_path)


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Errors:
    return lambda: [entry.getMessage() for entry in caplog.records if entry.levelname == "ERROR"]


def searched(results: Path, *more: str, method: str = "darts") -> Path:
    assert run.main(command(results, method, "--curvature", "off", *more)) == 0
    return results


def decided(results: Path) -> dict[str, bytes]:
    """What is decided by the specification, with the names of the folders."""
    return {f"{run.name}/{name}": (run / name).read_bytes() for run in folders(results).values() for name in DECIDED}


def looked_up(source: Path, target: Path, *more: str) -> int:
    return requery.main([str(source), "--into", str(target), *more])


@pytest.mark.parametrize("before", ["other.arrow", "none"])
@pytest.mark.parametrize("method", ["darts", "random_ws"])
def test_it_is_the_search_with_that_table(
    method: str, before: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = table(tmp_path / "wanted.arrow", seed=3)
    other = before if before == "none" else str(table(tmp_path / before))
    a = searched(tmp_path / "a", "--table", other, method=method)
    b = searched(tmp_path / "b", "--table", str(wanted), method=method)
    untouched = decided(a)
    capsys.readouterr()
    assert looked_up(a, tmp_path / "c", "--table", str(wanted)) == 0
    assert capsys.readouterr().out == f"2 of 2 runs looked up in {tmp_path / 'c'}\n"
    assert decided(tmp_path / "c") == decided(b) != untouched == decided(a)
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"locks", "runs"}
    assert looked_up(a, tmp_path / "c", "--table", str(wanted)) == 0


def test_a_cell_that_is_not_in_the_table_is_a_miss(tmp_path: Path) -> None:
    a = searched(tmp_path / "a", "--table", str(table(tmp_path / "whole.arrow")))
    seen = {record["key"] for folder in folders(a).values() for record in lines(folder / "records.jsonl")}
    part = table(tmp_path / "part.arrow", without=seen)
    assert looked_up(a, tmp_path / "c", "--table", str(part)) == 0
    again = [record for folder in folders(tmp_path / "c").values() for record in lines(folder / "records.jsonl")]
    assert again
    assert all(record["miss"] and record["table"] is None for record in again)


def test_what_cannot_be_looked_up_is_named_and_the_rest_is(tmp_path: Path, errors: Errors) -> None:
    file = str(table(tmp_path / "whole.arrow"))
    a = searched(tmp_path / "a", "--table", file)
    searched(a, "--table", file, "--metrics", "ranking", "--seeds", "2:3")
    (folders(a)["toy-darts-s1"] / "finished.json").unlink()
    assert looked_up(a, tmp_path / "c", "--table", str(table(tmp_path / "other.arrow", seed=3))) == 1
    assert list(folders(tmp_path / "c")) == ["toy-darts-s0"]
    unfinished, ranked = errors()
    assert "toy-darts-s1" in unfinished
    assert "it has not ended" in unfinished
    assert "toy-darts-s2" in ranked
    assert "search it again" in ranked


def test_runs_of_two_tables_that_become_one_must_agree(tmp_path: Path, errors: Errors) -> None:
    wanted = str(table(tmp_path / "wanted.arrow", seed=3))
    a = searched(tmp_path / "a", "--table", str(table(tmp_path / "other.arrow")))
    searched(a, "--table", "none")
    assert looked_up(a, tmp_path / "c", "--table", wanted) == 0
    assert decided(tmp_path / "c") == decided(searched(tmp_path / "b", "--table", wanted))
    (one, _) = sorted(a.glob("runs/toy-darts-s0-*"))
    records = one / "records.jsonl"
    records.write_text(records.read_text(encoding="utf-8").replace('"epoch": 2', '"epoch": 3'), encoding="utf-8")
    assert looked_up(a, tmp_path / "d", "--table", wanted) == 1
    assert "with other records, becomes toy-darts-s0-" in errors()[0]


def test_a_damaged_specification_is_named(tmp_path: Path, errors: Errors) -> None:
    a = searched(tmp_path / "a", "--table", str(table(tmp_path / "whole.arrow")))
    (folders(a)["toy-darts-s0"] / "spec.json").write_text("{", encoding="utf-8")
    assert looked_up(a, tmp_path / "c", "--table", str(tmp_path / "whole.arrow")) == 2
    assert "expected JSON in" in errors()[0]


def test_a_space_without_a_table_is_named(tmp_path: Path, errors: Errors) -> None:
    a = searched(tmp_path / "a", "--table", "none")
    assert looked_up(a, tmp_path / "c") == 1
    assert all("expected a table of toy on digits, found none" in error for error in errors())
    assert not (tmp_path / "c" / "runs").exists()


@pytest.mark.parametrize(
    ("source", "target", "file", "says"),
    [
        ("nothing", "c", "whole.arrow", "expected a results folder with runs/ in it"),
        ("a", "a", "whole.arrow", "expected another folder than"),
        ("a", "c", "absent.arrow", "found no file"),
    ],
)
def test_a_wrong_request_is_one_sentence(
    source: str, target: str, file: str, says: str, tmp_path: Path, errors: Errors
) -> None:
    table(tmp_path / "whole.arrow")
    searched(tmp_path / "a", "--table", "none")
    assert looked_up(tmp_path / source, tmp_path / target, "--table", str(tmp_path / file)) == 2
    assert len(errors()) == 1
    assert says in errors()[0]
    assert not (tmp_path / "c").exists()
