"""Figures of more methods than one panel can carry."""

import re
from pathlib import Path

import pandas as pd
import pytest
from test_analysis_study import record, spec, write_run

from analysis import figures, report
from analysis.load import runs, tidy
from analysis.selection import select
from analysis.style import CROWD, METHODS, styles

MANY = METHODS[: CROWD + 7]


def crowd(results: Path, methods: tuple[str, ...] = MANY) -> pd.DataFrame:
    """One run a method."""
    for method in methods:
        write_run(results, spec("s1", method, 0), [record(epoch) for epoch in range(3)])
    return select(tidy(runs(results)))


def test_pages_hold_every_method_once_and_one_of_every_colour(tmp_path: Path) -> None:
    shown = figures.pages("regret", crowd(tmp_path))
    labels = [sorted(set(page["label"])) for page in shown]
    assert sorted(label for page in labels for label in page) == sorted(MANY)
    assert [len(page) for page in labels] == [7, 7, 2]
    for page in labels:
        assert len({styles(MANY)[label].colour for label in page}) == len(page)


def test_few_methods_share_a_figure_and_relations_are_never_divided(tmp_path: Path) -> None:
    frame = crowd(tmp_path)
    assert len(figures.pages("lambda_regret", frame)) == 1
    few = frame[frame["label"].isin(MANY[:CROWD])]
    assert len(figures.pages("regret", few)) == 1


def test_a_page_without_anything_is_left_out_and_all_of_them_are_refused(tmp_path: Path) -> None:
    frame = crowd(tmp_path)
    last = frame["label"].isin(MANY[14:])
    frame.loc[last, "lambda_dominant"] = float("nan")
    assert len(figures.pages("eigenvalues", frame)) == 2
    frame["lambda_dominant"] = float("nan")
    with pytest.raises(ValueError, match="lambda_dominant"):
        figures.pages("eigenvalues", frame)


def test_files_are_numbered_and_the_report_has_all_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crowd(tmp_path)
    arguments = ["--results", str(tmp_path), "--out", str(tmp_path / "out")]
    assert figures.main([*arguments, "--figure", "regret"]) == 0
    names = [Path(line).name for line in capsys.readouterr().out.split()]
    assert names == [f"regret-{page}.{kind}" for page in (1, 2, 3) for kind in ("png", "pdf")]
    assert report.main(["--results", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.html").read_text()
    ids = re.findall(r'id="([^"]+)"', text)
    assert len(ids) == len(set(ids)), "glyphs of one figure would be drawn in another"
    section = text[text.index("<h3>Regret</h3>") :]
    assert section[: section.index("<h3>", 5)].count("<figcaption>") == 3
