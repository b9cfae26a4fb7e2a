"""Decoded cells and ablations: what is read, counted and drawn."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_analysis_study import record, spec, write_run
from test_figures import caption, legend

from analysis import cells, figures, style
from analysis.load import runs, tidy
from analysis.selection import select

NB201 = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|"
S1 = "0111/0010/0001/0000 | input,conv3x3-bn-relu,maxpool3x3,output | 0123abcd"


def test_operations_stand_on_edges_of_nas_bench_201() -> None:
    graph = cells.read(NB201)
    assert graph.nodes == ("in", "", "", "out")
    assert set(graph.edges) == {
        (0, 1, "3×3"), (0, 2, "none"), (1, 2, "skip"), (0, 3, "pool"), (1, 3, "1×1"), (2, 3, "none"),
    }  # fmt: skip


def test_operations_stand_on_nodes_elsewhere() -> None:
    graph = cells.read(S1)
    assert graph.nodes == ("in", "3×3", "pool", "out")
    assert graph.edges == ((0, 1, ""), (0, 2, ""), (0, 3, ""), (1, 2, ""), (2, 3, ""))


@pytest.mark.parametrize("text", ["g", "01/0 | input,output | x", "01/10 | input,output | x", "|skip_connect~2|+|a~0|"])
def test_other_texts_are_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected .*got"):
        cells.read(text)


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    """darts ends at one cell in two of three seeds; gdas selects another than it searched with."""
    for seed in range(3):
        late = NB201 if seed < 2 else NB201.replace("3x3", "1x1")
        records = [record(0, genotype=S1), record(1, genotype=late, test=0.75)]
        write_run(tmp_path, spec("nb201", "darts", seed), records)
    write_run(tmp_path, spec("nb201", "gdas", 0), [record(0, genotype=NB201), record(0, "final", genotype=S1)])
    write_run(tmp_path, spec("nb201", "random_ws", 0), [record(0, genotype=None)])
    return select(tidy(runs(tmp_path)))


def test_cells_are_counted_over_seeds_at_the_end(frame: pd.DataFrame) -> None:
    found = cells.selected(frame)
    rows = [tuple(row) for row in found[["label", "genotype", "count", "seeds"]].to_numpy()]
    assert rows == [
        ("darts", NB201, 2, 3), ("darts", NB201.replace("3x3", "1x1"), 1, 3), ("gdas", S1, 1, 1),
    ]  # fmt: skip
    np.testing.assert_allclose(found["error_test"], [0.25, 0.25, 0.3])


def test_a_panel_names_method_and_count(frame: pd.DataFrame) -> None:
    figure = figures.draw("cells", frame)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == [
        "nb201: darts\n2 of 3 seeds, test error 25.0 %", "nb201: darts\n1 of 3 seeds, test error 25.0 %",
        "nb201: gdas\n1 of 1 seeds, test error 30.0 %",
    ]  # fmt: skip
    assert "Without a cell: random_ws." in caption(figure)
    assert [len(ax.patches) for ax in figure.axes[:3]] == [6, 6, 5]


def ablation(results: Path) -> pd.DataFrame:
    for h in (0.1, 1.0, 10.0):
        for seed in range(3):
            fields = spec("s1", "ms_darts", seed, settings={"bandwidth": h}, signature=f"{h}-{seed}")
            write_run(results, fields, [record(1, curvature={"lambda_dominant": h + seed})])
    write_run(results, spec("s1", "darts", 0), [record(1)])
    write_run(results, spec("toy", "gdas", 0), [record(1)])
    return select(tidy(runs(results)))


def test_an_ablation_has_the_setting_on_its_axis_and_controls_as_lines(tmp_path: Path) -> None:
    figure = figures.draw("ablation", ablation(tmp_path))
    assert [ax.get_xlabel() for ax in figure.axes] == ["bandwidth", "bandwidth"]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["0.1", "1", "10"]
    assert legend(figure) == ["darts", "ms_darts"]
    (line,) = [line for line in figure.axes[0].lines if line.get_linewidth() == style.MEAN_PT]
    np.testing.assert_allclose(line.get_xydata(), [[0.1, 1.1], [1, 2], [10, 11]])
    assert "the setting bandwidth of ms_darts" in caption(figure)
    assert "(darts on s1: 1)" in caption(figure)
    assert "toy" not in caption(figure)


def test_figures_without_anything_to_show_are_left_out_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_run(tmp_path, spec("s1", "darts", 0), [record(0), record(1)])
    names = [name for name, _ in figures._possible([], {"": select(tidy(runs(tmp_path)))})]
    assert names == ["eigenvalues", "regret", "alpha_distance", "lambda_regret", "profile"]
    assert "no figure ablation: no method has runs with several values of a numeric setting" in caplog.text
    assert "no figure cells: expected a cell as" in caplog.text
    chosen = ["--results", str(tmp_path), "--out", str(tmp_path / "out"), "--figure", "ablation"]
    assert figures.main(chosen) == 2
    assert not (tmp_path / "out").exists()
    assert capsys.readouterr().err.startswith("analysis.figures: no method has runs with several values")
