"""The figures command: what it writes, what stands below the panels, and how it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pypdf
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from test_analysis_study import record, spec, write_run, write_study

from analysis import figures, series, style
from analysis.load import runs, tidy
from analysis.selection import select


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write_study(tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def frame(results: Path) -> pd.DataFrame:
    return select(tidy(runs(results)))


def caption(figure: Figure) -> str:
    return " ".join(figure.texts[0].get_text().split())


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "analysis.figures", *arguments]


def environment(out: Path) -> dict[str, str]:
    """Return an environment with another hash seed and another time zone for every folder."""
    return os.environ | {"PYTHONHASHSEED": out.name, "TZ": f"Etc/GMT+{out.name}"}


DRAWN = ["eigenvalues", "regret", "alpha_distance", "lambda_regret", "profile"]
"""What the synthetic study has something for."""


@pytest.mark.parametrize("name", DRAWN)
def test_every_caption_carries_the_protocol(frame: pd.DataFrame, name: str) -> None:
    text = caption(figures.draw(name, frame))
    for part in (
        "n = 3 seeds a method (darts on nb201: 2, darts on s1: 4), 3 epochs, dataset digits, benchmark embedded",
        "table budget 108, split halves, batch size 64, steps in fp32, batch norm: batch statistics.",
        "Not finished: darts on s1: 1.",
        "With fewer than 3 seeds ",
    ):
        assert part in text


def test_the_caption_says_what_lambda_is_and_who_has_none(frame: pd.DataFrame) -> None:
    figure = figures.draw("eigenvalues", frame)
    text = caption(figure)
    assert "dominant eigenvalue, signed, of the Hessian of the validation cross-entropy" in text
    assert "on a fixed un-augmented probe of 256 images with respect to the architecture logits." in text
    assert "Without λ: random_ws (no architecture logits)." in text
    assert legend(figure) == ["darts", "gdas"]


USUAL = "validation cross-entropy through the softmax"
SAMPLED = f"{USUAL}, without the noise"


@pytest.mark.parametrize("name", ["eigenvalues", "lambda_regret", "lambda_legacy"])
def test_the_caption_says_which_loss_the_hessian_is_of(name: str, tmp_path: Path) -> None:
    for method, loss in (("darts", USUAL), ("gdas", SAMPLED), ("sgas", USUAL), ("dsnas", SAMPLED), ("old", None)):
        curvature = {"lambda_dominant": 1.0, "lambda_legacy": 1.0} | ({} if loss is None else {"hessian_of": loss})
        write_run(tmp_path, spec("s1", method, 0), [record(epoch, curvature=curvature) for epoch in (0, 1)])
    frame = select(tidy(runs(tmp_path)))
    assert f"The Hessian is of the {USUAL}; that of dsnas, gdas: {SAMPLED}." in caption(figures.draw(name, frame))
    usual = figures.draw(name, frame[frame["method"] == "darts"])
    assert f"The Hessian is of the {USUAL}." in caption(usual)
    assert "The Hessian is" not in caption(figures.draw(name, frame[frame["method"] == "old"]))


def test_misses_are_counted_and_marked(frame: pd.DataFrame) -> None:
    figure = figures.draw("regret", frame)
    assert legend(figure) == ["darts", "random_ws", "gdas (1 miss)", "random cell", "best cell of the table"]
    assert "Crosses: the cell of at least one seed is not in the table." in caption(figure)
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == [[2]]


def test_without_misses_nothing_speaks_of_them(frame: pd.DataFrame) -> None:
    assert "Crosses" not in caption(figures.draw("regret", frame[frame["method"] == "darts"]))


def test_a_method_that_selects_at_the_end_is_a_point_behind_the_last_epoch(frame: pd.DataFrame) -> None:
    figure = figures.draw("regret", frame)
    points = [
        line for line in figure.axes[2].lines if line.get_marker() == style.styles(["random_ws"])["random_ws"].marker
    ]
    ((x, y),) = [(line.get_xdata()[0], line.get_ydata()[0]) for line in points]
    assert x > 3
    assert y == pytest.approx(0.24)


def test_reference_lines_come_from_the_table(frame: pd.DataFrame) -> None:
    figure = figures.draw("regret", frame)
    grey = [[line.get_ydata()[0] for line in ax.lines if line.get_color() == style.GREY] for ax in figure.axes[::2]]
    np.testing.assert_allclose(grey[0], [0.3])
    np.testing.assert_allclose(grey[1], [0.1, 0.4])


def test_few_seeds_have_no_mean_and_no_band(frame: pd.DataFrame) -> None:
    s1, nb201 = figures.draw("eigenvalues", frame[frame["method"] == "darts"]).axes
    widths = [[line.get_linewidth() for line in ax.lines if np.isfinite(line.get_ydata()).all()] for ax in (s1, nb201)]
    assert style.MEAN_PT in widths[0]
    assert style.MEAN_PT not in widths[1]
    bands = [ax.collections[0].get_paths() for ax in (s1, nb201)]
    assert [len(paths) for paths in bands] == [1, 0]


def test_distances_name_who_is_not_drawn(frame: pd.DataFrame) -> None:
    figure = figures.draw("alpha_distance", frame)
    assert "Only finished runs are drawn. Not drawn: random_ws (no architecture logits)." in caption(figure)
    starts = [line.get_xydata()[0] for line in figure.axes[0].lines if line.get_linewidth() == style.MEAN_PT]
    np.testing.assert_allclose(starts, [[2 * np.sqrt(5), 2.0]] * 2)


def test_spaces_that_differ_are_told_apart_in_the_caption(tmp_path: Path) -> None:
    write_run(tmp_path, spec("s1", "darts", 0, batch_size=96), [record(0), record(1)])
    write_run(tmp_path, spec("nb201", "darts", 0), [record(0, curvature=None), record(1, curvature=None)])
    figure = figures.draw("eigenvalues", select(tidy(runs(tmp_path))))
    assert "n = 1 seed a method" in caption(figure)
    assert "batch size (s1: 96, nb201: 64)" in caption(figure)
    assert [text.get_text() for text in figure.axes[1].texts] == ["no values"]


def test_nothing_overlaps_below_the_panels(frame: pd.DataFrame) -> None:
    figure = figures.draw("regret", frame)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    panels = min(ax.get_tightbbox(renderer).y0 for ax in figure.axes)
    keys, words = figure.legends[0].get_window_extent(renderer), figure.texts[0].get_window_extent(renderer)
    assert 0 <= words.y0 < words.y1 < keys.y0 < keys.y1 < panels
    assert words.x1 < figure.bbox.width
    assert 0 <= keys.x0 < keys.x1 < figure.bbox.width


def test_styles_are_fixed_by_name_and_never_shared() -> None:
    assert style.styles(["gdas", "darts"])["gdas"] == style.styles(["gdas"])["gdas"]
    labels = [*style.METHODS, "new", "darts[lr=0.1]", "darts[lr=0.2]"]
    assert len(set(style.styles(labels).values())) == len(labels)
    assert list(style.styles(["zebra", "gdas", "ape", "darts"])) == ["darts", "gdas", "ape", "zebra"]
    assert list(style.styles(["h=10", "h=2", "h=0.5"])) == ["h=0.5", "h=2", "h=10"]


def test_every_method_has_a_line_of_its_own_and_variants_take_free_ones() -> None:
    fixed = style.styles(style.METHODS)
    lines = {(one.colour, one.dashes) for one in fixed.values()}
    assert len(lines) == len(style.METHODS) >= 50
    found = style.styles(["darts", *(f"ms_darts[h={h}]" for h in range(20))])
    assert found["darts"] == fixed["darts"]
    assert len({(one.colour, one.dashes) for one in found.values()}) == len(found)


def test_the_scatter_has_a_marker_a_run_and_the_mean_with_its_interval(frame: pd.DataFrame) -> None:
    figure = figures.draw("lambda_regret", frame)
    assert legend(figure) == ["darts", "gdas"]
    assert "Not drawn: random_ws (no λ)." in caption(figure)
    colour = style.styles(["gdas"])["gdas"].colour
    runs_, *intervals, mean = [line.get_xydata() for line in figure.axes[0].lines if line.get_color() == colour]
    np.testing.assert_allclose(runs_, [[1.5, 0.3], [1.5, 0.28], [1.5, 0.26]])
    np.testing.assert_allclose(mean, [[1.5, 0.28]])
    np.testing.assert_allclose(intervals[1][:, 1], [0.26, 0.3])


def test_the_scatter_has_as_much_room_beside_its_largest_marker_as_beside_its_smallest(frame: pd.DataFrame) -> None:
    values = {"darts": -0.01, "gdas": 40.0}
    frame["lambda_dominant"] = frame["label"].map(values)
    ax = figures.draw("lambda_regret", frame).axes[0]
    assert {round(x, 9) for line in ax.lines for x in line.get_xdata()} == set(values.values())
    assert ax.get_xscale() == "symlog"
    drawn = ax.transData.transform([(x, 0) for line in ax.lines for x in line.get_xdata()])[:, 0]
    left, right = ax.transData.transform([(x, 0) for x in ax.get_xlim()])[:, 0]
    assert right - drawn.max() == pytest.approx(drawn.min() - left)
    assert right - drawn.max() > 0.03 * (right - left)


def test_the_profile_counts_seeds_up_to_a_regret(frame: pd.DataFrame) -> None:
    figure = figures.draw("profile", frame)
    assert legend(figure) == ["darts", "random_ws", "gdas", "random cell"]
    colour = style.styles(["gdas"])["gdas"].colour
    (steps,) = [line for line in figure.axes[0].lines if line.get_color() == colour]
    shares = dict(zip(np.round(steps.get_xdata(), 6), steps.get_ydata(), strict=True))
    assert shares[0.0] == 0
    np.testing.assert_allclose([shares[0.26], shares[0.28], shares[0.3]], [1 / 3, 2 / 3, 1])


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_and_the_caption_is_text(results: Path, tmp_path: Path) -> None:
    outs = [tmp_path / hash_seed for hash_seed in ("1", "2")]
    processes = [
        subprocess.Popen(
            command("--results", str(results), "--out", str(out)),
            stdout=subprocess.PIPE,
            text=True,
            env=environment(out),
        )
        for out in outs
    ]
    for process, out in zip(processes, outs, strict=True):
        listed = [str(out / f"{name}.{kind}") for name in DRAWN for kind in ("png", "pdf")]
        assert process.communicate()[0].split() == listed
        assert process.returncode == 0
    written = [{path.name: path.read_bytes() for path in sorted(out.iterdir())} for out in outs]
    assert written[0] == written[1]
    text = " ".join(pypdf.PdfReader(tmp_path / "1" / "eigenvalues.pdf").pages[0].extract_text().split())
    assert "λ: dominant eigenvalue, signed, of the Hessian" in text
    assert "Without λ: random_ws (no architecture logits)." in text


def test_the_analysis_imports_no_torch() -> None:
    code = "import sys, analysis.figures; sys.exit('torch' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--figure", "regrets"], "no figure 'regrets'; there are " + ", ".join([*figures.FIGURES, "incumbents"])),
        (["--space", "s4"], "no runs of space 's4'; there are nb201, s1"),
        (["--methods", "darts,nasp"], "no runs of method 'nasp'; there are darts, gdas, random_ws"),
        (["--where", "batch_size"], "expected --where field=value, got 'batch_size'"),
        (["--results", "nowhere"], "no runs with records under nowhere/runs; python -m bench.run makes some"),
    ],
)
def test_mistakes_end_in_one_sentence(
    results: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert figures.main(["--results", str(results), *arguments]) == 2
    assert capsys.readouterr().err == f"analysis.figures: {sentence}\n"


def test_the_command_draws_what_is_asked_for(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--figure", "regret", "--space", "s1", "--methods", "darts,gdas", "--where", "seed=0", "seed=2"]
    assert figures.main(["--results", str(results), "--out", str(tmp_path / "out"), *chosen]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "out" / name) for name in ("regret.png", "regret.pdf")]


def test_an_empty_first_column_keeps_the_names_of_the_axes(tmp_path: Path) -> None:
    write_run(tmp_path, spec("s1", "darts", 0), [record(epoch, test=None, regret_test=None) for epoch in range(3)])
    write_run(tmp_path, spec("toy", "darts", 0), [record(epoch, regret_test=0.1) for epoch in range(3)])
    figure = figures.draw("regret", select(tidy(runs(tmp_path))))
    assert [axes.get_ylabel() for axes in figure.axes] == ["test regret", "", "test error", ""]


def test_a_method_with_one_point_is_a_marker_in_the_legend(tmp_path: Path) -> None:
    write_run(tmp_path, spec("s1", "darts", 0), [record(epoch, regret_test=0.1) for epoch in range(3)])
    late = [record(0, test=None, regret_test=None), record(1, test=None, regret_test=None), record(2, regret_test=0.1)]
    write_run(tmp_path, spec("s1", "random_ws", 0), late)
    figure = figures.draw("regret", select(tidy(runs(tmp_path))))
    lines = {line.get_label(): line.get_linestyle() for line in figure.legends[0].get_lines()}
    assert lines["random_ws"] == "None" != lines["darts"]


def test_the_weights_stop_where_rows_saturate_while_the_logits_go_on(tmp_path: Path) -> None:
    moving = [record(epoch, weights={"op": [[min(epoch, 1), 0]]}, logits={"op": [[epoch, 0]]}) for epoch in range(4)]
    write_run(tmp_path, spec("s1", "darts", 0), moving)
    found = series.with_distances(tidy(runs(tmp_path)))
    assert found["distance"].tolist() == [3, 2, 1, 0]
    assert found["distance_simplex"].tolist() == [1, 0, 0, 0]


def test_slices_are_drawn_from_the_loss_at_the_final_logits(tmp_path: Path) -> None:
    t = [-1.0, 0.0, 1.0]
    for seed in range(3):
        slices = {"t": t, "loss": [[3 + seed, 1, 2], [1.5, 1, 1.25], [2, 1, None]]}
        write_run(tmp_path, spec("s1", "darts", seed), [record(0), record(1, landscape=slices)])
    write_run(tmp_path, spec("s1", "gdas", 0), [record(0), record(1, no_landscape="λ is undefined")])
    figure = figures.draw("landscape", select(tidy(runs(tmp_path))))
    means = [next(line for line in ax.lines if line.get_linewidth() == style.MEAN_PT) for ax in figure.axes]
    np.testing.assert_allclose(means[0].get_xydata(), [[-1, 3], [0, 0], [1, 1]])
    np.testing.assert_allclose(means[1].get_ydata(), [0.75, 0, np.nan])
    assert "Not drawn: gdas (λ is undefined)." in caption(figure)
