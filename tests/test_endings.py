"""Searches and analysis agree on which runs have ended."""

from pathlib import Path
from typing import Any

import pytest

from analysis import _endings
from bench import store


class Spec:
    """Names a folder."""

    signature = "sig"
    name = "run"

    def resolved(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("end", "records", "whole"),
    [
        ('{"records": 2}', "a\nb\n", True),
        ('{"records": 2, "epoch": 1, "reason": "train_loss is nan"}', "a\nb\n", True),
        ('{"records": 2}', "a\nb\ntorn", True),
        ('{"records": 2}', "a\n", False),
        ('{"records": 2}', "a\nb\nc\n", False),
        ('{"records": 2}', None, False),
        ('{"records": 0}', None, True),
        ('{"records": null}', "a\nb\n", False),
        ("{}", "a\nb\n", False),
        ("[2]", "a\nb\n", False),
        ('{"reco', "a\nb\n", False),
        ("", "a\nb\n", False),
        (None, "a\nb\n", False),
    ],
)
@pytest.mark.parametrize("name", store.ENDS)
def test_both_read_an_end_alike(name: str, end: str | None, records: str | None, whole: bool, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / Spec.name
    folder.mkdir(parents=True)
    for file, text in ((name, end), ("records.jsonl", records)):
        if text is not None:
            (folder / file).write_text(text)
    assert _endings.ended(folder, name) == store.ended(tmp_path, Spec()) == whole
    if name == "finished.json":
        assert store.finished(tmp_path, Spec()) == whole
    problem, theirs = _endings.damage(folder, name), store.damage(tmp_path, Spec())
    assert (problem is None) == (theirs is None) == (whole or end is None)


def test_what_is_wrong_with_an_end_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text("a\n")
    (tmp_path / "finished.json").write_text('{"records": 2}')
    (tmp_path / "diverged.json").write_text("{}")
    wanted = f"{tmp_path}: 1 of the 2 records it finished with: not finished"
    assert _endings.damage(tmp_path, "finished.json") == wanted
    wanted = f"{tmp_path}/diverged.json does not say how many records its run diverged with: not diverged"
    assert _endings.damage(tmp_path, "diverged.json") == wanted
