"""What an earlier call left in an output folder goes where it would mislead, and nothing else does."""

import json
from pathlib import Path

import pytest
from test_analysis_study import record, spec, write_run, write_study

from analysis import _written, figures, tables
from analysis.style import METHODS


def put(folder: Path, name: str, text: str = "ours") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


def call(folder: Path, files: dict[str, str]) -> None:
    """What a command does: write files of some kinds, then remove what is stale."""
    written = _written.Written(folder)
    for name, kind in files.items():
        written.note(kind, [put(folder, name)])
    written.remove_stale()


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {_written.NAME}


def test_files_of_a_kind_that_is_written_again_go_and_one_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    call(tmp_path, {"a-1": "a", "a-2": "a", "b-1": "b"})
    assert not caplog.messages
    call(tmp_path, {"a": "a", "a-2": "a"})
    assert left(tmp_path) == {"a", "a-2", "b-1"}
    assert caplog.messages == [f"removed from {tmp_path} what an earlier call wrote: a-1"]
    call(tmp_path, {"b": "b"})
    assert left(tmp_path) == {"a", "a-2", "b"}


def test_what_has_nothing_to_show_any_more_goes_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    call(tmp_path, {"a": "a", "b": "b"})
    written = _written.Written(tmp_path)
    written.note("a", [])
    written.remove_stale()
    assert left(tmp_path) == {"b"}
    assert caplog.messages == [f"removed from {tmp_path} what an earlier call wrote: a"]
    call(tmp_path, {"b": "b"})


def test_a_file_that_was_changed_since_or_that_we_did_not_write_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "a-3")
    call(tmp_path, {"a-1": "a", "a-2": "a", "a-4": "a"})
    put(tmp_path, "a-2", "edited")
    (tmp_path / "a-4").unlink()
    call(tmp_path, {"a": "a"})
    assert left(tmp_path) == {"a", "a-2", "a-3"}
    assert caplog.messages == [f"removed from {tmp_path} what an earlier call wrote: a-1"]
    put(tmp_path, "a-2")
    call(tmp_path, {"a": "a"})
    assert left(tmp_path) == {"a", "a-2", "a-3"}, "once the user's, always the user's"


def test_what_a_call_that_was_killed_has_written_is_known_to_the_next(tmp_path: Path) -> None:
    _written.Written(tmp_path).note("a", [put(tmp_path, "a-1")])
    call(tmp_path, {"a": "a"})
    assert left(tmp_path) == {"a"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1, "files": {"old": {"kind": "a"}}}'])
def test_a_manifest_that_is_none_of_ours_removes_nothing(text: str, tmp_path: Path) -> None:
    for name in ("old", _written.NAME):
        put(tmp_path, name, text)
    call(tmp_path, {"a": "a"})
    assert left(tmp_path) == {"old", "a"}
    assert list(json.loads((tmp_path / _written.NAME).read_text())["files"]) == ["a"]


def test_nothing_outside_the_folder_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    call(out, {"a-1": "a"})
    path = out / _written.NAME
    path.write_text(path.read_text().replace('"a-1"', '"../a-1"'))
    put(tmp_path, "a-1")
    call(out, {"a": "a"})
    assert left(out) == {"a", "a-1"}
    assert (tmp_path / "a-1").exists()


def test_figures_of_fewer_methods_leave_no_numbered_ones_of_more(tmp_path: Path) -> None:
    for method in METHODS[:10]:
        write_run(tmp_path, spec("s1", method, 0), [record(epoch) for epoch in range(3)])
    out = tmp_path / "out"
    drawn = ["--results", str(tmp_path), "--out", str(out), "--figure"]
    assert figures.main([*drawn, "regret", "profile"]) == 0
    put(out, "regret-3.png", "the user's")
    assert figures.main([*drawn, "regret", "--methods", ",".join(METHODS[:2])]) == 0
    numbered = {f"profile-{page}.{end}" for page in (1, 2) for end in ("png", "pdf")}
    assert left(out) == {"regret.png", "regret.pdf", "regret-3.png", *numbered}


def test_tables_of_one_space_leave_none_of_another(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_study(tmp_path / "results")
    out = tmp_path / "out"
    made = ["--results", str(tmp_path / "results"), "--out", str(out)]
    assert tables.main(["accuracy", "stability", *made]) == 0
    assert tables.main(["accuracy", *made, "--space", "s1", "--format", "csv"]) == 0
    kept = {f"stability-{space}{end}" for space in ("s1", "nb201") for end in (".md", ".tex", ".csv")}
    assert left(out) == {"accuracy-s1.csv", *kept}
    assert "accuracy-nb201.csv, accuracy-nb201.md, accuracy-nb201.tex, accuracy-s1.md" in caplog.messages[-1]


def test_the_table_of_datasets_goes_with_that_of_accuracies() -> None:
    assert tables._kind("datasets-nb201") == tables._kind("accuracy-s1-cifar100") == "table accuracy"
    assert tables._kind("ms_darts.bandwidth-s1") == "table ms_darts.bandwidth"
